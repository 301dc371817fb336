package mdp

import (
	"errors"
	"slices"
	"time"

	"eventspine/internal/quiet"
	"eventspine/internal/zmq"
)

// exchange is the broker without its socket: who is registered for what, and which request is
// where. One goroutine owns it. send never waits; an error means that the peer is away or
// takes nothing now.
type exchange struct {
	o        BrokerOptions
	m        *metrics
	log      *quiet.Logger
	send     func(zmq.Msg) error
	services map[string]*service
	workers  map[string]*member
	waiting  map[string]int       // requests in queues, by client
	bytes    int                  // of the bodies in queues
	shunned  map[string]time.Time // peers that were told DISCONNECT lately, so that each is told once
}

// service is one name: its workers that have nothing to do, longest idle first, and the
// requests that none of them could take yet, oldest first.
type service struct {
	name    string
	idle    []*member
	queue   []*job
	workers int
	seen    time.Time // when its last worker was still there
}

// member is one registered worker.
type member struct {
	address string
	service *service
	doing   *job      // nil: idle
	heard   time.Time // when the worker last said anything
	told    time.Time // when we last said anything to it
	since   time.Time
}

const frameCost = 64 // bytes that a frame takes besides its own

// job is one client's request.
type job struct {
	client   string
	body     zmq.Msg
	size     int // bytes of body
	deadline time.Time
	tries    int
}

func newExchange(o BrokerOptions, send func(zmq.Msg) error) *exchange {
	return &exchange{o: o, m: newMetrics(o.Metrics), log: quietly(o.Log), send: send, services: map[string]*service{},
		workers: map[string]*member{}, waiting: map[string]int{}, shunned: map[string]time.Time{}}
}

// handle takes one message that the ROUTER received.
func (x *exchange) handle(m zmq.Msg) {
	p, err := readPeer(m)
	switch {
	case err != nil:
		x.invalid(p, err)
	case !p.worker:
		x.request(p)
	default:
		x.fromWorker(p)
	}
}

// invalid drops the message and treats the peer as invalid (RFC 7).
func (x *exchange) invalid(p packet, err error) {
	x.m.bad.WithLabelValues(err.Error()).Inc()
	x.log.Warn("a peer broke the Majordomo protocol", "wrong", err.Error(), "worker", p.worker)
	if w := x.workers[p.from]; w != nil {
		x.expel(w, invalid)
	} else if p.worker {
		x.shun(p.from)
	}
}

func (x *exchange) fromWorker(p packet) {
	w := x.workers[p.from]
	if p.command == ready {
		x.register(w, p)
		return
	}
	if w == nil {
		if p.command != disconnect {
			x.shun(p.from) // registered before our restart, or expired: it shall register anew
		}
		return
	}
	w.heard = time.Now()
	switch p.command {
	case reply:
		x.reply(w, p)
	case disconnect:
		x.remove(w, left)
		x.dispatch(w.service)
	}
}

// register adds a worker. A second READY is unexpected and ends it, as RFC 7 says.
func (x *exchange) register(w *member, p packet) {
	switch {
	case w != nil:
		x.expel(w, unexpected)
		return
	case isReserved(p.service):
		x.m.bad.WithLabelValues(reserved).Inc()
		x.shun(p.from)
		return
	case len(x.workers) >= x.o.MaxWorkers:
		x.m.bad.WithLabelValues(crowded).Inc()
		x.log.Warn("too many workers; one was refused", "limit", x.o.MaxWorkers)
		x.shun(p.from)
		return
	}
	delete(x.shunned, p.from)
	now := time.Now()
	s := x.service(p.service)
	w = &member{address: p.from, service: s, heard: now, since: now}
	x.workers[p.from] = w
	x.m.workers.Set(float64(len(x.workers)))
	s.workers++
	s.idle = append(s.idle, w)
	x.dispatch(s)
}

// reply passes a worker's answer on, when it is the one it owes.
func (x *exchange) reply(w *member, p packet) {
	if w.doing == nil || w.doing.client != p.client {
		x.expel(w, unexpected)
		return
	}
	w.doing = nil
	x.m.inService.Dec()
	x.answer(p.client, w.service.name, p.body)
	w.service.idle = append(w.service.idle, w)
	x.dispatch(w.service)
}

func (x *exchange) answer(client, service string, body zmq.Msg) {
	if err := x.send(toClient(client, service, body)); err != nil {
		x.m.dropped.WithLabelValues(absent).Inc()
		return
	}
	x.m.answers.Inc()
}

// request queues a client's request, or answers it when it is the broker's own to answer.
func (x *exchange) request(p packet) {
	x.m.requests.Inc()
	if isReserved(p.service) {
		x.answer(p.from, p.service, x.manage(p.service, p.body))
		return
	}
	s, size := x.services[p.service], weight(p.body)
	why := ""
	switch {
	case s == nil && len(x.services) >= x.o.MaxServices:
		why = crowded
	case s != nil && len(s.queue) >= x.o.MaxQueue, x.bytes+size > x.o.MaxBytes:
		why = noRoom
	case x.waiting[p.from] >= x.o.MaxPerClient:
		why = greedy
	}
	if why != "" {
		x.m.dropped.WithLabelValues(why).Inc()
		x.log.Warn("a request was dropped", "reason", why)
		return
	}
	s = x.service(p.service)
	j := &job{client: p.from, body: p.body, size: size, deadline: time.Now().Add(x.o.RequestTimeout)}
	s.queue = append(s.queue, j)
	x.queued(j, 1)
	x.dispatch(s)
}

// service is the entry of a name, made when there is none.
func (x *exchange) service(name string) *service {
	s := x.services[name]
	if s == nil {
		s = &service{name: name}
		x.services[name] = s
	}
	return s
}

// dispatch hands requests to idle workers as long as there are both.
func (x *exchange) dispatch(s *service) {
	x.expire(s)
	for len(s.queue) > 0 && len(s.idle) > 0 {
		w, j := s.idle[0], s.queue[0]
		if err := x.tell(w, request, append(zmq.Msg{[]byte(j.client), nil}, j.body...)...); err != nil {
			x.remove(w, unreached)
			continue
		}
		s.idle, s.queue = s.idle[1:], s.queue[1:]
		x.queued(j, -1)
		j.tries++
		w.doing = j
		x.m.inService.Inc()
	}
}

// expire drops the requests that have waited too long.
func (x *exchange) expire(s *service) {
	now := time.Now()
	s.queue = slices.DeleteFunc(s.queue, func(j *job) bool {
		if now.Before(j.deadline) {
			return false
		}
		x.queued(j, -1)
		x.m.dropped.WithLabelValues(late).Inc()
		return true
	})
}

// queued counts a request that came into a queue (1) or left it (-1).
func (x *exchange) queued(j *job, by int) {
	x.m.waiting.Add(float64(by))
	x.bytes += by * j.size
	if x.waiting[j.client] += by; x.waiting[j.client] == 0 {
		delete(x.waiting, j.client)
	}
}

// weight is the bytes of a body, and some for each of its frames.
func weight(body zmq.Msg) (n int) {
	for _, f := range body {
		n += len(f) + frameCost
	}
	return n
}

func (x *exchange) tell(w *member, c command, args ...[]byte) error {
	err := x.send(toWorker(w.address, c, args...))
	if err == nil {
		w.told = time.Now()
	}
	return err
}

// expel removes a worker that broke the protocol and tells it so.
func (x *exchange) expel(w *member, reason string) {
	x.shun(w.address)
	x.remove(w, reason)
	x.dispatch(w.service)
}

// shun tells a peer DISCONNECT, once until it registers or has been forgotten.
func (x *exchange) shun(address string) {
	if _, told := x.shunned[address]; told || len(x.shunned) >= x.o.MaxWorkers {
		return
	}
	x.shunned[address] = time.Now()
	x.m.refused.Inc()
	_ = x.send(toWorker(address, disconnect)) // away already: as good
}

// remove takes a worker off. The request it was working on goes to the front of the queue,
// for another worker, unless it has had its share of them.
func (x *exchange) remove(w *member, reason string) {
	s := w.service
	delete(x.workers, w.address)
	x.m.workers.Set(float64(len(x.workers)))
	x.m.removed.WithLabelValues(reason).Inc()
	s.workers--
	s.seen = time.Now()
	s.idle = slices.DeleteFunc(s.idle, func(o *member) bool { return o == w })
	if j := w.doing; j != nil {
		w.doing = nil
		x.m.inService.Dec()
		x.again(s, j)
	}
	if s.workers == 0 && len(s.queue) == 0 && len(x.services) > x.o.MaxServices {
		delete(x.services, s.name)
	}
}

func (x *exchange) again(s *service, j *job) {
	if j.tries >= x.o.MaxTries {
		x.m.dropped.WithLabelValues(hopeless).Inc()
		x.log.Warn("a request ended all the workers it was given to", "service", s.name, "workers", j.tries)
		return
	}
	s.queue = slices.Insert(s.queue, 0, j)
	x.queued(j, 1)
	x.m.repeated.Inc()
}

// tick does what time brings: it is called several times a heartbeat interval.
func (x *exchange) tick() {
	now := time.Now()
	for _, w := range x.workers {
		switch {
		case now.Sub(w.heard) >= x.o.expiry():
			x.remove(w, silent)
		case now.Sub(w.told) >= x.o.Heartbeat:
			if err := x.tell(w, heartbeat); err != nil && !errors.Is(err, zmq.ErrWouldBlock) {
				x.remove(w, unreached)
			}
		}
	}
	for name, s := range x.services {
		x.dispatch(s)
		if s.workers == 0 && len(s.queue) == 0 && now.Sub(s.seen) >= x.o.Forget {
			delete(x.services, name)
		}
	}
	for address, at := range x.shunned {
		if now.Sub(at) >= x.o.expiry() {
			delete(x.shunned, address)
		}
	}
}

// farewell tells every worker that the broker ends.
func (x *exchange) farewell() {
	for _, w := range x.workers {
		_ = x.tell(w, disconnect) // it will notice by its missing heartbeats as well
	}
}
