package fanout

import (
	"context"
	"crypto/rand"
	"slices"
	"strings"
	"sync"
	"time"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/zmq"
)

const (
	askAgain = 2 * time.Second // when a proxy did not answer
	maxProbe = 64              // bytes of a probe's topic
)

// Welcome is the proxy's part of a late joiner's synchronisation. It is given each subscription
// that XPUB's Recv gives, in that order. probe says that it is a subscriber's question whether
// all it subscribed to before is in effect; then answer, if there is one, is to be published,
// and the subscription is nobody else's business.
func Welcome(subscription zmq.Msg) (answer zmq.Msg, probe bool) {
	if len(subscription) != 1 || len(subscription[0]) < 1 {
		return nil, false
	}
	on, topic := subscription[0][0] == 1, string(subscription[0][1:])
	if !strings.HasPrefix(topic, event.TopicSync) || len(topic) > maxProbe || strings.Contains(topic, " ") {
		return nil, false
	}
	if !on || topic == event.TopicSync {
		return nil, true
	}
	return zmq.Msg{[]byte(topic + " {}")}, true
}

// syncer learns at which proxies the subscriptions are in effect, so that a late joiner knows
// from when on it misses nothing. A SUB is never told; but a connection keeps its order. So
// whenever a connection comes or goes a round begins: a topic that nobody else can guess is
// subscribed to on every connection, behind all others, and each proxy answers on it. When
// there were as many answers as connections, and none came or went meanwhile, all that was
// subscribed to before is in effect at all of them.
type syncer struct {
	socket *zmq.Socket
	route  *route
	again  chan struct{} // a round is due; holds one
	stop   chan struct{}
	done   chan struct{}
	once   sync.Once // of close

	mu      sync.Mutex
	live    []int         // connections, by endpoint
	topic   string        // of the round; empty: there was none yet
	missing int           // answers of the round; 0: it is over
	begun   uint64        // rounds
	settled uint64        // the last round that every proxy answered
	told    chan struct{} // closed when settled changes
	changes uint64        // of live
}

func newSyncer(r *route) *syncer {
	return &syncer{route: r, again: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}), live: make([]int, len(r.names)), told: make(chan struct{})}
}

// watch is a monitor that sees connections come and go. It ends the round before anything of a
// new connection is read.
func (y *syncer) watch(e zmq.Event) {
	n := 0
	switch e.Kind {
	case zmq.Connected:
		n = 1
	case zmq.Disconnected:
		n = -1
	}
	i := slices.Index(y.route.names, e.Endpoint)
	if n == 0 || i < 0 {
		return
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	y.live[i] += n
	y.missing = 0
	y.changes++
	if y.live[i] == 0 {
		y.route.set(i, false)
	}
	y.due()
}

// due has a round begin soon.
func (y *syncer) due() {
	select {
	case y.again <- struct{}{}:
	default: // one is due already
	}
}

// confirm waits until a round that begins after the call was answered by every proxy.
func (y *syncer) confirm(ctx context.Context) error {
	y.mu.Lock()
	want := y.begun + 1
	y.mu.Unlock()
	for y.due(); ; {
		y.mu.Lock()
		settled, told := y.settled, y.told
		y.mu.Unlock()
		if settled >= want {
			return nil
		}
		select {
		case <-told:
		case <-y.stop:
			return fault.Errorf("", fault.Unavailable, "the subscriber is closed")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// run begins rounds until the syncer is closed.
func (y *syncer) run(socket *zmq.Socket) {
	defer close(y.done)
	y.socket = socket
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	for {
		select {
		case <-y.stop:
			return
		case <-y.again:
			y.round()
		case <-tick.C:
			y.mu.Lock()
			unanswered := y.missing > 0
			y.mu.Unlock()
			if unanswered {
				y.round()
			}
		}
	}
}

// round asks every proxy. An error would mean that the socket is closed.
func (y *syncer) round() {
	topic, n := event.TopicSync+rand.Text(), 0
	y.mu.Lock()
	for _, live := range y.live {
		n += live
	}
	old := y.topic
	y.topic, y.missing = topic, n
	y.begun++
	y.mu.Unlock()
	if old != "" {
		_ = y.socket.Unsubscribe(old)
	}
	_ = y.socket.Subscribe(topic)
}

// answer takes what came on a probe's topic, ours or another subscriber's.
func (y *syncer) answer(topic string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if topic != y.topic || y.missing == 0 {
		return
	}
	if y.missing--; y.missing > 0 {
		return
	}
	for i, live := range y.live {
		y.route.set(i, live > 0)
	}
	y.settled = y.begun
	close(y.told)
	y.told = make(chan struct{})
}

func (y *syncer) close() {
	y.once.Do(func() { close(y.stop) })
	<-y.done
}
