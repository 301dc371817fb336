package clone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/fault"
	"eventspine/internal/zmq"
)

const (
	snapshotTime = 5 * time.Second // for a whole snapshot to come
	againMin     = 100 * time.Millisecond
	againMax     = 2 * time.Second
	silence      = 5 // heartbeats missed after which the server is looked for anew
)

// ParseEndpoints reads the setting of a client: the endpoints for snapshots, updates and
// changes, or the first one alone, tcp://host:port, when the others are on the next two ports.
// Errors are of kind Invalid.
func ParseEndpoints(list []string) (Endpoints, error) {
	wrong := fault.Errorf("clone", fault.Invalid, "%q is neither one tcp://host:port nor the three endpoints for snapshots, updates and changes", strings.Join(list, ","))
	if len(list) == 3 {
		return Endpoints{list[0], list[1], list[2]}, nil
	}
	if len(list) != 1 {
		return Endpoints{}, wrong
	}
	address, ok := strings.CutPrefix(list[0], "tcp://")
	host, text, err := net.SplitHostPort(address)
	port, bad := strconv.ParseUint(text, 10, 16)
	if !ok || err != nil || bad != nil || port == 0 || port > 65533 {
		return Endpoints{}, wrong
	}
	at := func(n uint64) string { return "tcp://" + net.JoinHostPort(host, strconv.FormatUint(port+n, 10)) }
	return Endpoints{at(0), at(1), at(2)}, nil
}

// ClientOptions are a client's settings. Only the endpoints have no default.
type ClientOptions struct {
	Endpoints
	Subtree   string                  // such as /rules/; empty: everything
	Changed   func(map[string][]byte) // called by Run, after every change, with a copy of all values that is the callee's own; nil: none
	Heartbeat time.Duration           // of the server; default 1 s
	Curve     *zmq.CurveOptions       // of a client; nil: plain connections
	Metrics   prometheus.Registerer   // nil: none
	Log       *slog.Logger            // nil: none
}

// Client follows a subtree of a server's map. Run must be running for it to do anything. Its
// methods are safe for concurrent use.
type Client struct {
	o    ClientOptions
	push *zmq.Socket
	m    *clientMetrics

	mu      sync.Mutex
	f       follower
	waiting map[ID]wish
	first   chan struct{} // closed when the first snapshot is in
	known   bool          // first is closed
}

// wish is a change that is not confirmed yet.
type wish struct {
	key  string
	gone bool
	done chan struct{}
}

// Dial makes a client; the server need not be there. Errors are of kind Invalid.
func Dial(o ClientOptions) (*Client, error) {
	if o.Heartbeat <= 0 {
		o.Heartbeat = DefaultHeartbeat
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := CheckSubtree(o.Subtree); err != nil {
		return nil, err
	}
	c := &Client{o: o, m: newClientMetrics(o.Metrics), waiting: map[ID]wish{}, first: make(chan struct{}),
		f:    follower{subtree: o.Subtree, entries: map[string]entry{}},
		push: zmq.New(zmq.Push, zmq.Options{SndHWM: 16, Curve: o.Curve})}
	for _, try := range []struct {
		typ      zmq.Type
		endpoint string
	}{{zmq.Dealer, o.Snapshot}, {zmq.Sub, o.Updates}} {
		s := zmq.New(try.typ, zmq.Options{Linger: -1, Curve: o.Curve})
		err := s.Connect(try.endpoint)
		_ = s.Close(context.Background()) // only to see whether the endpoint is one
		if err != nil {
			return nil, errors.Join(err, c.push.Close(context.Background()))
		}
	}
	if err := c.push.Connect(o.Changes); err != nil {
		return nil, errors.Join(err, c.push.Close(context.Background()))
	}
	return c, nil
}

// Close releases a Client that Run never ran.
func (c *Client) Close() error { return c.push.Close(context.Background()) }

// Values is a copy of the subtree as it is known now, and whether it is known at all and
// complete as far as the client can tell.
func (c *Client) Values() (values map[string][]byte, synced bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.values(), c.f.synced
}

func (c *Client) values() map[string][]byte {
	out := make(map[string][]byte, len(c.f.entries))
	for key, e := range c.f.entries {
		out[key] = append([]byte(nil), e.value...)
	}
	return out
}

// Wait waits until the first snapshot is in. The error is ctx's, of kind Unavailable.
func (c *Client) Wait(ctx context.Context) error {
	select {
	case <-c.first:
		return nil
	case <-ctx.Done():
		return fault.Errorf("clone", fault.Unavailable, "no snapshot from %s: %w", c.o.Snapshot, ctx.Err())
	}
}

// Set gives a key of the client's subtree a value, for ttl (0: for ever; rounded up to seconds), and waits
// until the server has confirmed it. Errors: Invalid for a bad key, value or ttl; Unavailable
// when ctx ended before: the change may still be made.
func (c *Client) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if len(value) == 0 || len(value) > MaxValue || ttl < 0 || ttl > MaxTTL {
		return fault.Errorf("clone", fault.Invalid, "a value has 1 to %d bytes and lives up to %s", MaxValue, MaxTTL)
	}
	m := message{key: key, id: newID(), value: append([]byte(nil), value...)}
	if ttl > 0 {
		m.props = map[string]string{propTTL: strconv.FormatInt(int64((ttl+time.Second-1)/time.Second), 10)}
	}
	return c.change(ctx, m)
}

// Delete takes a key of the client's subtree away and waits until the server has confirmed
// it; a key that is not there is fine. Errors are those of Set.
func (c *Client) Delete(ctx context.Context, key string) error {
	return c.change(ctx, message{key: key, id: newID()})
}

func (c *Client) change(ctx context.Context, m message) error {
	if err := CheckKey(m.key); err != nil {
		return err
	}
	if !strings.HasPrefix(m.key, c.o.Subtree) {
		return fault.Errorf("clone", fault.Invalid, "%s is outside of %s", m.key, c.o.Subtree)
	}
	if err := c.Wait(ctx); err != nil {
		return err // the confirmation could be missed
	}
	w := wish{m.key, len(m.value) == 0, make(chan struct{})}
	c.mu.Lock()
	c.waiting[m.id] = w
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, m.id)
		c.mu.Unlock()
	}()
	err := c.push.Send(ctx, m.encode())
	if err == nil {
		select {
		case <-w.done:
			return nil
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	return fault.Errorf("clone", fault.Unavailable, "the change of %s was not confirmed: %w", m.key, err)
}

// Run follows the server until ctx ends and closes the client. It returns nil after a clean end.
func (c *Client) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := c.session(ctx); err != nil && ctx.Err() == nil {
			c.o.Log.Warn("clone lost; connecting anew", "updates", c.o.Updates, "error", err)
		}
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer cancel()
	return c.push.Close(closing)
}

var errSilent = errors.New("the server is silent")

// session follows the updates over one connection until the server falls silent.
func (c *Client) session(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	sub := zmq.New(zmq.Sub, zmq.Options{RcvHWM: 2*MaxKeys + 1, MaxFrames: 8, ReconnectMax: againMax, Linger: -1, Curve: c.o.Curve})
	for _, topic := range []string{c.o.Subtree, hugz} {
		if err := sub.Subscribe(topic); err != nil {
			stop()
			return errors.Join(err, sub.Close(ctx))
		}
	}
	if err := sub.Connect(c.o.Updates); err != nil {
		stop()
		return errors.Join(err, sub.Close(ctx))
	}
	in, got := zmq.Receive(ctx, sub), make(chan snapshot)
	var asking sync.WaitGroup
	c.mu.Lock()
	c.f.lose()
	c.mu.Unlock()
	err := c.follow(ctx, in, got, func() { asking.Go(func() { c.ask(ctx, got) }) })
	stop()
	for range in { // waits for the reader
	}
	asking.Wait()
	return errors.Join(err, sub.Close(ctx))
}

// follow keeps the copy up to date. ask starts to get a snapshot, which comes over got.
//
// The first snapshot is asked for before anything was heard, when it is not known yet that the subscription
// is in effect. A server of ours says what was missed between the two; one that knows RFC 12 only does not, so it is
// asked once more when it was heard.
func (c *Client) follow(ctx context.Context, in <-chan zmq.Received, got <-chan snapshot, ask func()) error {
	ask()
	asked := true
	heard, early := false, true // early: what was asked for last was before anything was heard
	unsure := false             // what is in was
	patience := time.NewTimer(silence * c.o.Heartbeat)
	defer patience.Stop()
	for {
		changed := false
		select {
		case r := <-in:
			if r.Err != nil || r.Msg == nil {
				return r.Err
			}
			patience.Reset(silence * c.o.Heartbeat)
			heard = true
			changed = c.take(r.Msg)
		case s := <-got:
			asked, unsure = false, early && s.epoch == ""
			patience.Reset(silence * c.o.Heartbeat)
			changed = c.restore(s)
		case <-patience.C:
			if !asked { // while it is asked for, its own retries look for the server
				return errSilent
			}
			patience.Reset(silence * c.o.Heartbeat)
		case <-ctx.Done():
			return nil
		}
		c.mu.Lock()
		if unsure && heard && !asked {
			unsure = false
			c.f.lose()
		}
		lost, values := !c.f.synced, map[string][]byte(nil)
		if changed && c.o.Changed != nil {
			values = c.values()
		}
		c.mu.Unlock()
		if values != nil {
			c.o.Changed(values)
		}
		if lost && !asked {
			asked, early = true, !heard
			ask()
		}
	}
}

// take reads one published message and reports whether the copy changed.
func (c *Client) take(frames zmq.Msg) bool {
	m, err := decode(frames)
	if err != nil {
		c.m.bad.WithLabelValues(reason(err)).Inc()
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.key == hugz {
		c.f.heartbeat(m)
		return false
	}
	c.m.updates.Inc()
	changed := c.f.update(m)
	if w, ours := c.waiting[m.id]; ours {
		delete(c.waiting, m.id)
		close(w.done)
	}
	return changed
}

// restore takes a snapshot and reports whether the copy is another one now.
func (c *Client) restore(s snapshot) bool {
	c.m.snapshots.Inc()
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := c.f.restore(s) || !c.known
	if !c.known {
		c.known = true
		close(c.first)
	}
	for id, w := range c.waiting {
		if e, there := c.f.entries[w.key]; there && e.id == id || !there && w.gone {
			delete(c.waiting, id)
			close(w.done)
		}
	}
	return changed
}

// ask asks for a snapshot, on a fresh socket each time, until one comes or ctx ends.
func (c *Client) ask(ctx context.Context, got chan<- snapshot) {
	wait, told := againMin, false
	for ctx.Err() == nil {
		s, err := c.fetch(ctx)
		if err == nil {
			select {
			case got <- s:
			case <-ctx.Done():
			}
			return
		}
		if ctx.Err() != nil {
			return
		}
		c.m.failed.Inc()
		if !told {
			c.o.Log.Warn("no snapshot of the clone yet; asking again", "snapshots", c.o.Snapshot, "error", err)
			told = true
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
		wait = min(2*wait, againMax)
	}
}

// fetch gets one snapshot.
func (c *Client) fetch(ctx context.Context) (snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, snapshotTime)
	defer cancel()
	s := zmq.New(zmq.Dealer, zmq.Options{RcvHWM: 2*MaxKeys + 1, MaxFrames: 8, ReconnectMax: againMax, Linger: -1, Curve: c.o.Curve})
	defer func() { _ = s.Close(ctx) }() // nothing of it is wanted any more
	if err := s.Connect(c.o.Snapshot); err != nil {
		return snapshot{}, err
	}
	if err := s.Send(ctx, request(c.o.Subtree)); err != nil {
		return snapshot{}, err
	}
	all := collector{subtree: c.o.Subtree}
	for {
		frames, err := s.Recv(ctx)
		if err != nil {
			return snapshot{}, err
		}
		m, err := decode(frames)
		whole := false
		if err == nil {
			whole, err = all.add(m)
		}
		if err != nil {
			c.m.bad.WithLabelValues(reason(err)).Inc()
			return snapshot{}, fmt.Errorf("snapshot: %w", err)
		}
		if whole {
			return all.s, nil
		}
	}
}
