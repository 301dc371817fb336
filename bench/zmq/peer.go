package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"eventspine/internal/zmq"
	"eventspine/internal/zmq/curve"
)

const (
	topicSize = 16         // bytes of a message's topic
	headSize  = 32         // then its number and when it was sent
	probe     = ^uint64(0) // number of a message that asks whether anybody is there
	listBlock = 64         // messages whose lists of frames the producer makes at once
	ackSize   = 16         // a subscriber's number, and how much it has got
	probeTime = 20 * time.Millisecond
	stallTime = 30 * time.Second // without any progress; then the run is lost, however slow the machine is
)

// role is one process of an exchange, the same as libzmq/peer.c plays with libzmq:
//
//	push, pull     count messages of size bytes, rate a second (0: as fast as they go)
//	proxy          between publisher and subscribers, until it is killed
//	pub, sub       likewise, but never more than window ahead of the slowest of subs subscribers
type role struct {
	Front, Back, Pace string // endpoints: publishers' side, subscribers' side, acknowledgements
	Curve             string // the server's public and secret and the client's public and secret key; empty: none
	Size, Count, Rate int
	Window, Subs, ID  int
	Topics            int // different ones, in turn
	Subscribe         int // 1: to all topics at once, else to so many
	HWM               int
}

// arguments are the role's values as both programs read them.
func (r role) arguments() []string {
	var out []string
	for _, v := range []struct{ name, value string }{{"front", r.Front}, {"back", r.Back}, {"pace", r.Pace}, {"curve", r.Curve}} {
		if v.value != "" {
			out = append(out, v.name+"="+v.value)
		}
	}
	for name, p := range r.numbers() {
		out = append(out, name+"="+strconv.Itoa(*p))
	}
	slices.Sort(out)
	return out
}

func (r *role) numbers() map[string]*int {
	return map[string]*int{"size": &r.Size, "count": &r.Count, "rate": &r.Rate, "window": &r.Window, "subs": &r.Subs,
		"id": &r.ID, "topics": &r.Topics, "subscribe": &r.Subscribe, "hwm": &r.HWM}
}

func parseRole(args []string) (r role, err error) {
	texts := map[string]*string{"front": &r.Front, "back": &r.Back, "pace": &r.Pace, "curve": &r.Curve}
	numbers := r.numbers()
	for _, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		switch {
		case texts[name] != nil:
			*texts[name] = value
		case numbers[name] != nil:
			*numbers[name], err = strconv.Atoi(value)
		default:
			err = fmt.Errorf("what is %q?", arg)
		}
		if err != nil {
			return r, err
		}
	}
	if r.Size <= headSize || r.Topics < 1 || r.Count < 1 {
		err = fmt.Errorf("size %d, topics %d, count %d", r.Size, r.Topics, r.Count)
	}
	return r, err
}

// play runs the role and says on out what the other side has to know: "endpoint E", "back E",
// "pace E", and at the end the result.
func play(ctx context.Context, name string, r role, out io.Writer) error {
	p := &player{role: r, out: out}
	roles := map[string]func(context.Context) error{"push": p.push, "pull": p.pull, "pub": p.pub, "sub": p.sub, "proxy": p.proxy}
	if roles[name] == nil {
		return fmt.Errorf("no role %q", name)
	}
	defer func() {
		for _, s := range p.open {
			_ = s.Close(context.WithoutCancel(ctx)) // what does not arrive is missed at the other end
		}
	}()
	return roles[name](ctx)
}

type player struct {
	role
	out  io.Writer
	open []*zmq.Socket
	heap uint64 // allocations when the steady part began

	lists [][]byte // memory for the messages' lists of frames
}

func (p *player) socket(t zmq.Type, server bool) (*zmq.Socket, error) {
	o := zmq.Options{SndHWM: p.HWM, RcvHWM: p.HWM, Linger: stallTime, ReconnectMin: 10 * time.Millisecond}
	if t == zmq.Push && p.Pace != "" {
		o.Linger = -1 // nobody needs the last acknowledgements
	}
	if p.Curve != "" {
		var keys [4]curve.Key
		for i := range keys {
			var err error
			if keys[i], err = curve.ParseKey(p.Curve[40*i : 40*(i+1)]); err != nil {
				return nil, err
			}
		}
		o.Curve = &zmq.CurveOptions{Server: server, Public: keys[0], Secret: keys[1]}
		if !server {
			o.Curve.Public, o.Curve.Secret, o.Curve.ServerKey = keys[2], keys[3], keys[0]
		}
	}
	s := zmq.New(t, o)
	p.open = append(p.open, s)
	return s, nil
}

func (p *player) bound(ctx context.Context, t zmq.Type, name string) (*zmq.Socket, error) {
	s, err := p.socket(t, true)
	if err != nil {
		return nil, err
	}
	return s, p.bind(ctx, s, name)
}

func (p *player) bind(ctx context.Context, s *zmq.Socket, name string) error {
	ep, err := s.Bind(ctx, "tcp://127.0.0.1:0")
	if err == nil {
		_, err = fmt.Fprintln(p.out, name, ep)
	}
	return err
}

func (p *player) connected(t zmq.Type, endpoint string) (*zmq.Socket, error) {
	s, err := p.socket(t, false)
	if err != nil {
		return nil, err
	}
	return s, s.Connect(endpoint)
}

func (p *player) push(ctx context.Context) error {
	s, err := p.connected(zmq.Push, p.Front)
	if err != nil {
		return err
	}
	return p.sendAll(ctx, s, nil)
}

func (p *player) pull(ctx context.Context) error {
	s, err := p.bound(ctx, zmq.Pull, "endpoint")
	if err != nil {
		return err
	}
	return p.receive(ctx, s, nil)
}

func (p *player) pub(ctx context.Context) error {
	acks, err := p.bound(ctx, zmq.Pull, "pace")
	if err != nil {
		return err
	}
	s, err := p.socket(zmq.Pub, false)
	if err != nil {
		return err
	}
	if p.Front == "" {
		err = p.bind(ctx, s, "endpoint")
	} else {
		err = s.Connect(p.Front)
	}
	if err == nil {
		err = p.probe(ctx, s, acks)
	}
	if err == nil {
		err = p.sendAll(ctx, s, acks)
	}
	return err
}

func (p *player) sub(ctx context.Context) error {
	s, err := p.connected(zmq.Sub, p.Back)
	if err != nil {
		return err
	}
	acks, err := p.connected(zmq.Push, p.Pace)
	if err != nil {
		return err
	}
	if p.Subscribe <= 1 {
		err = s.Subscribe("t.")
	}
	for i := 0; p.Subscribe > 1 && i < p.Subscribe; i++ {
		err = errors.Join(err, s.Subscribe(string(putTopic(nil, uint64(i))[:11])))
	}
	if err != nil {
		return err
	}
	return p.receive(ctx, s, acks)
}

// proxy runs until ctx ends, and says what it allocated for each message.
func (p *player) proxy(ctx context.Context) error {
	front, err := p.bound(ctx, zmq.XSub, "endpoint")
	if err != nil {
		return err
	}
	back, err := p.bound(ctx, zmq.XPub, "back")
	if err != nil {
		return err
	}
	p.steady()
	if err := zmq.Forward(ctx, front, back); err != nil {
		return err
	}
	n := int(front.Stats().Received)
	return p.result(result{Received: n, Allocations: p.allocated(n)})
}

// sendAll sends count messages, in time or within the window.
func (p *player) sendAll(ctx context.Context, s, acks *zmq.Socket) error {
	start, least := time.Now(), 0
	seen := make([]int, p.Subs)
	warm := p.Count / 10
	for i := range p.Count {
		if i == warm {
			p.steady()
		}
		for acks != nil && i-least >= p.Window {
			id, n, err := p.ack(ctx, acks, stallTime)
			if err != nil {
				return err
			}
			seen[id] = n
			least = slices.Min(seen)
		}
		if p.Rate > 0 {
			if wait := time.Until(start.Add(time.Duration(i) * time.Second / time.Duration(p.Rate))); wait > 0 {
				nap(wait)
			}
		}
		if err := send(ctx, s, p.message(uint64(i))); err != nil {
			return err
		}
	}
	own := 1 + 1.0/listBlock // allocations for the body and its list of frames
	return p.result(result{Received: p.Count, First: start, Last: time.Now(), Allocations: p.allocated(p.Count-warm) - own})
}

func send(ctx context.Context, s *zmq.Socket, m zmq.Msg) error {
	err := s.TrySend(m)
	if !errors.Is(err, zmq.ErrWouldBlock) {
		return err
	}
	ctx, stop := context.WithTimeout(ctx, stallTime)
	defer stop()
	return s.Send(ctx, m)
}

// message is what peer.c's fill makes.
func (p *player) message(n uint64) zmq.Msg {
	b := make([]byte, p.Size)
	topic := n % uint64(p.Topics)
	if n == probe {
		topic = uint64(p.Topics) - 1
	}
	putTopic(b[:0], topic)
	binary.LittleEndian.PutUint64(b[topicSize:], n)
	if p.Rate > 0 {
		binary.LittleEndian.PutUint64(b[topicSize+8:], uint64(time.Now().UnixNano()))
	}
	b[p.Size-1] = byte(n)
	if len(p.lists) == 0 {
		p.lists = make([][]byte, listBlock)
	}
	m := p.lists[:1:1]
	p.lists = p.lists[1:]
	m[0] = b
	return m
}

func putTopic(b []byte, n uint64) []byte {
	b = append(b, "t.00000000......"...)
	for i := 9; n > 0 && i > 1; i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
	return b
}

// probe publishes until every subscriber has answered, so that no message is lost.
func (p *player) probe(ctx context.Context, s, acks *zmq.Socket) error {
	answered := map[int]bool{}
	for end := time.Now().Add(stallTime); len(answered) < p.Subs; {
		if err := send(ctx, s, p.message(probe)); err != nil {
			return err
		}
		for len(answered) < p.Subs {
			id, _, err := p.ack(ctx, acks, probeTime)
			if errors.Is(err, context.DeadlineExceeded) && time.Now().Before(end) {
				break
			}
			if err != nil {
				return err
			}
			answered[id] = true
		}
	}
	return nil
}

func (p *player) ack(ctx context.Context, acks *zmq.Socket, limit time.Duration) (id, n int, err error) {
	ctx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	m, err := acks.Recv(ctx)
	if err != nil {
		return 0, 0, fmt.Errorf("waiting for subscribers: %w", err)
	}
	if len(m) != 1 || len(m[0]) != ackSize || binary.LittleEndian.Uint64(m[0]) >= uint64(p.Subs) {
		return 0, 0, fmt.Errorf("not an acknowledgement: %q", m)
	}
	return int(binary.LittleEndian.Uint64(m[0])), int(binary.LittleEndian.Uint64(m[0][8:])), nil
}

func (p *player) sendAck(ctx context.Context, acks *zmq.Socket, n int) error {
	b := binary.LittleEndian.AppendUint64(make([]byte, 0, ackSize), uint64(p.ID))
	return send(ctx, acks, zmq.Msg{binary.LittleEndian.AppendUint64(b, uint64(n))})
}

// receive takes count messages and looks at each. It gives up after stallTime without one.
func (p *player) receive(ctx context.Context, s, acks *zmq.Socket) error {
	var r result
	late := make([]int64, 0, p.Count*min(p.Rate, 1))
	warm, answered := p.Count/10, false
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	watch := time.AfterFunc(stallTime, stop)
	defer watch.Stop()
	for r.Received < p.Count {
		m, err := s.Recv(ctx)
		if err != nil {
			break
		}
		number, good := p.look(m)
		if number == probe && acks != nil {
			if !answered {
				err = p.sendAck(ctx, acks, 0)
			}
			if answered = true; err != nil {
				return err
			}
			continue
		}
		switch r.Received {
		case 0:
			r.First = time.Now()
		case warm:
			p.steady()
		}
		if !good || number != uint64(r.Received) {
			r.Wrong++
		}
		if p.Rate > 0 && good {
			late = append(late, time.Now().UnixNano()-int64(binary.LittleEndian.Uint64(m[0][topicSize+8:])))
		}
		if r.Received++; r.Received%8192 == 0 {
			watch.Reset(stallTime)
		}
		if acks != nil && r.Received%(p.Window/20) == 0 {
			if err := p.sendAck(ctx, acks, r.Received); err != nil {
				return err
			}
		}
	}
	r.Last = time.Now()
	r.Allocations = p.allocated(r.Received - warm)
	slices.Sort(late)
	r.P50, r.P99 = quantile(late, 0.5), quantile(late, 0.99)
	return p.result(r)
}

var topicStart = []byte("t.")

func (p *player) look(m zmq.Msg) (number uint64, good bool) {
	if len(m) != 1 || len(m[0]) != p.Size || !bytes.HasPrefix(m[0], topicStart) {
		return 0, false
	}
	number = binary.LittleEndian.Uint64(m[0][topicSize:])
	return number, m[0][p.Size-1] == byte(number)
}

func quantile(sorted []int64, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return time.Duration(sorted[int(q*float64(len(sorted)-1))])
}

// steady notes that the steady part begins.
func (p *player) steady() { p.heap = mallocs() }

func (p *player) allocated(messages int) float64 {
	return float64(mallocs()-p.heap) / float64(max(messages, 1))
}

func mallocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

// result is the last thing that a role says.
type result struct {
	Received, Wrong int
	First, Last     time.Time     // message
	P50, P99        time.Duration // on the way, when a rate was asked for
	Allocations     float64       // of the library, a message; libzmq does not say
}

func (p *player) result(r result) error {
	_, err := fmt.Fprintln(p.out, "result", r.Received, r.Wrong, nanos(r.First), nanos(r.Last), r.P50.Nanoseconds(), r.P99.Nanoseconds(), r.Allocations)
	return err
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func parseResult(line string) (r result, err error) {
	var first, last, p50, p99 int64
	_, err = fmt.Sscan(line, &r.Received, &r.Wrong, &first, &last, &p50, &p99, &r.Allocations)
	r.First, r.Last, r.P50, r.P99 = time.Unix(0, first), time.Unix(0, last), time.Duration(p50), time.Duration(p99)
	return r, err
}
