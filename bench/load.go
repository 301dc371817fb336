package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"eventspine/internal/archive"
	"eventspine/test/harness"
)

const (
	settle    = 30 * time.Second // how long the last events may take to arrive
	batchSize = 100              // events a request in the burst
	payload   = `"text":"something happened that you wanted to know about","link":"https://example.org/orders/8412/items/3","amount":12.5,"tags":["a","b"]`
)

// load is the generator and the clients.
type load struct {
	o       options
	system  *harness.System
	token   string
	posters chan *poster // those not in use
	archive *archive.Archive
	clients []*browser
	readers sync.WaitGroup
	ended   chan struct{}
	mark    string // of this run: ids and types of no other run are like it
	current atomic.Pointer[part]
}

// part is one part of the run and what came in during it.
type part struct {
	name      string
	typ       string
	mark      []byte // what only packets with an event of this part contain
	accepted  atomic.Int64
	pushback  atomic.Int64 // 503 answers, each sent again
	received  atomic.Int64
	repeated  atomic.Int64
	seen      []atomic.Bool // by event number
	latencies []int64       // nanoseconds by event number; 0: not received
	began     time.Time
	lastGot   atomic.Int64 // nanoseconds after began
	full      chan struct{}
	machine   func() machine // ends the watch of it
}

func newPart(name, mark string, n int) *part {
	typ := "notification.bench." + name + mark
	return &part{name: name, typ: typ, mark: []byte(`"type":"` + typ + `"`), seen: make([]atomic.Bool, n), latencies: make([]int64, n), full: make(chan struct{})}
}

func newLoad(ctx context.Context, s *harness.System, o options) (*load, error) {
	l := &load{o: o, system: s, token: harness.Token("generator", "emit"), posters: make(chan *poster, o.Senders), ended: make(chan struct{}), mark: strconv.FormatInt(time.Now().UnixMilli(), 36)}
	var err error
	if l.archive, err = archive.New(archive.Options{URLs: []string{s.ES}}); err != nil {
		return nil, err
	}
	for i := range o.Clients {
		c, err := dialBridge(ctx, s.BridgeURL, harness.Token(user(i)))
		if err != nil {
			return nil, errors.Join(err, l.close())
		}
		l.clients = append(l.clients, c)
		l.readers.Go(func() { l.read(c) })
	}
	l.readers.Go(l.keep)
	return l, nil
}

func user(i int) string { return fmt.Sprintf("bench-user-%d", i) }

// close ends all connections. No request may be under way.
func (l *load) close() error {
	close(l.ended)
	var errs []error
	for _, c := range l.clients {
		errs = append(errs, c.conn.Close())
	}
	l.hangUp()
	l.readers.Wait()
	return errors.Join(errs...)
}

// keep pings on every client's connection until the end.
func (l *load) keep() {
	tick := time.NewTicker(20 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-l.ended:
			return
		case <-tick.C:
		}
		for _, c := range l.clients {
			_ = c.ping() // a connection that broke loses events, and that is counted
		}
	}
}

// read takes one client's events: which one, and when it was due.
func (l *load) read(c *browser) {
	for {
		packet, err := c.next()
		if err != nil {
			return
		}
		now := time.Now()
		p := l.current.Load()
		if p == nil {
			continue
		}
		if n, due, ok := p.event(packet); ok {
			p.got(int(n), now.Sub(p.began)-time.Duration(due), now)
		}
	}
}

func (p *part) got(n int, took time.Duration, now time.Time) {
	if p.seen[n].Swap(true) {
		p.repeated.Add(1)
		return
	}
	p.latencies[n] = int64(took)
	p.lastGot.Store(int64(now.Sub(p.began)))
	if p.received.Add(1) == int64(len(p.seen)) {
		close(p.full)
	}
}

func (l *load) parts(ctx context.Context) (*result, error) {
	if err := l.warmUp(ctx); err != nil {
		return nil, err
	}
	r := &result{Options: l.o}
	steady := newPart("steady", l.mark, int(float64(l.o.Rate)*l.o.For.Seconds()))
	var err error
	if r.Steady, err = l.steady(ctx, steady); err != nil {
		return nil, err
	}
	if l.o.Burst > 0 {
		r.Burst, err = l.burst(ctx, newPart("burst", l.mark, l.o.Burst))
	}
	return r, err
}

// steady sends the part's events at the rate, each as one POST at its due time.
func (l *load) steady(ctx context.Context, p *part) (*figures, error) {
	usage := l.usage()
	if err := l.begin(ctx, p); err != nil {
		return nil, err
	}
	due := make(chan int, len(p.seen)) // a late generator must not hold the schedule back
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(due)
		return l.schedule(gctx, p, due)
	})
	for range l.o.Senders {
		g.Go(func() error {
			c := <-l.posters
			defer func() { l.posters <- c }()
			for n := range due {
				if err := l.postOne(c, p, n); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return l.finish(ctx, p, time.Since(p.began), usage)
}

// begin starts the clock of a part, with fresh connections: the api closes idle ones.
func (l *load) begin(ctx context.Context, p *part) error {
	l.hangUp()
	for range l.o.Senders {
		c, err := dialAPI(ctx, l.system.APIURL, l.token)
		if err != nil {
			return err
		}
		l.posters <- c
	}
	p.machine = watchMachine(ctx)
	p.began = time.Now()
	l.current.Store(p)
	return nil
}

func (l *load) hangUp() {
	for range len(l.posters) {
		_ = (<-l.posters).conn.Close() // its last answer was read
	}
}

func (l *load) dueAt(n int) time.Duration {
	return time.Duration(float64(n) / float64(l.o.Rate) * float64(time.Second))
}

// schedule hands out the events as they come due.
func (l *load) schedule(ctx context.Context, p *part, due chan<- int) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n := range p.seen {
		if early := l.dueAt(n) - time.Since(p.began); early > 0 {
			timer.Reset(early)
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-timer.C:
			}
		}
		due <- n
	}
	return nil
}

func (l *load) event(dst []byte, p *part, n int, due time.Duration) []byte {
	return fmt.Appendf(dst, `{"id":"%s-%d","type":%q,"userId":%q,"data":{"n":%d,"due":%d,%s}}`,
		p.typ, n, p.typ, user(n%l.o.Clients), n, int64(due), payload)
}

func (l *load) postOne(c *poster, p *part, n int) error {
	c.body = l.event(c.body[:0], p, n, l.dueAt(n))
	for {
		status, _, err := c.post("/api/events", "application/json", c.body)
		switch {
		case err != nil:
			return err
		case status == http.StatusAccepted:
			p.accepted.Add(1)
			return nil
		case status != http.StatusServiceUnavailable:
			return fmt.Errorf("POST: status %d", status)
		}
		p.pushback.Add(1)
	}
}

// burst sends all events of the part in batches, as fast as they are taken.
func (l *load) burst(ctx context.Context, p *part) (*figures, error) {
	usage := l.usage()
	if err := l.begin(ctx, p); err != nil {
		return nil, err
	}
	if err := l.sendBatches(p); err != nil {
		return nil, err
	}
	return l.finish(ctx, p, time.Since(p.began), usage)
}

func (l *load) sendBatches(p *part) error {
	var g errgroup.Group
	g.SetLimit(l.o.Senders)
	for from := 0; from < len(p.seen); from += batchSize {
		g.Go(func() error { return l.postBatch(p, from, min(from+batchSize, len(p.seen))) })
	}
	return g.Wait()
}

// postBatch repeats the events that were pushed back until all are accepted.
func (l *load) postBatch(p *part, from, to int) error {
	c := <-l.posters
	defer func() { l.posters <- c }()
	var left []int
	for n := from; n < to; n++ {
		left = append(left, n)
	}
	for len(left) > 0 {
		var body []byte
		for _, n := range left {
			body = append(l.event(body, p, n, time.Since(p.began)), '\n')
		}
		status, text, err := c.post("/api/events/batch", "application/x-ndjson", body)
		if err != nil {
			return err
		}
		again, err := pushedBack(left, status, text)
		if err != nil {
			return err
		}
		p.accepted.Add(int64(len(left) - len(again)))
		p.pushback.Add(int64(len(again)))
		left = again
	}
	return nil
}

func pushedBack(sent []int, status int, text []byte) ([]int, error) {
	if status == http.StatusAccepted {
		return nil, nil
	}
	if status == http.StatusServiceUnavailable {
		return sent, nil
	}
	var body struct {
		Results []struct {
			Status int `json:"status"`
		} `json:"results"`
	}
	if err := json.Unmarshal(text, &body); err != nil || len(body.Results) != len(sent) {
		return nil, fmt.Errorf("batch: status %d: %.300s", status, text)
	}
	var again []int
	for i, r := range body.Results {
		switch r.Status {
		case http.StatusAccepted:
		case http.StatusServiceUnavailable:
			again = append(again, sent[i])
		default:
			return nil, fmt.Errorf("event %d: status %d", sent[i], r.Status)
		}
	}
	return again, nil
}

// lookEvery is how often the index is asked: each look refreshes it, which takes from what is measured.
const lookEvery = 500 * time.Millisecond

// indexed waits until all events of the part are in the index, or none has come for a while.
func (l *load) indexed(ctx context.Context, p *part, f *figures) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for came := time.Now(); ; {
		if err := l.archive.Refresh(ctx); err != nil {
			return err
		}
		n, err := l.archive.Count(ctx, archive.Query{Type: p.typ, AnyUser: true})
		if err != nil {
			return err
		}
		if n > f.Indexed {
			came = time.Now()
		}
		f.Indexed, f.IndexSeconds = n, time.Since(p.began).Seconds()
		if n >= int64(len(p.seen)) || time.Since(came) > settle {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// finish waits until everything arrived in the browsers and in the index.
func (l *load) finish(ctx context.Context, p *part, sending time.Duration, before []usage) (*figures, error) {
	late := time.NewTimer(settle)
	defer late.Stop()
	select {
	case <-p.full:
	case <-late.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	f := p.figures(sending)
	f.Machine = p.machine()
	f.Processes = l.since(before)
	if err := l.indexed(ctx, p, f); err != nil {
		return nil, err
	}
	f.IndexedPerSecond = float64(f.Indexed) / f.IndexSeconds
	return f, nil
}
