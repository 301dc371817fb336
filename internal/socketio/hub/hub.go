// Package hub knows which connections a user has, whatever protocol they speak, and holds what
// every protocol's connections need: a packet encoded once, a bounded queue, and limits.
package hub

import (
	"hash/maphash"
	"iter"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"eventspine/internal/fault"
)

// Conn is one client, whatever protocol it speaks.
type Conn interface {
	ID() string   // the session id, unguessable
	User() string // whose token opened it
	// Emit queues the packet and never waits. False means that the connection is gone, or was
	// closed just now because its queue is full.
	Emit(*Packet) bool
	// Close ends the connection; reason is a word or two for logs and metrics. Only the first
	// call has an effect.
	Close(reason string)
}

// Options of a hub; the zero value works.
type Options struct {
	// Watch is told when a user's first connection is added and when the last is removed: in that
	// order, and never twice at the same time for one user. A part of the hub is locked meanwhile, so
	// it must not wait and must not call the hub.
	Watch func(user string, online bool)
	// PerAddress bounds the connections from one client address; 0: no bound.
	PerAddress int
}

const hubShards = 64

// Hub knows which connections a user has. Safe for concurrent use; no lock is held while a
// packet is emitted.
type Hub struct {
	perUser, total int
	perAddress     int
	seed           maphash.Seed
	watch          func(user string, online bool) // or nil
	count          atomic.Int64                   // reserved connections
	shards         [hubShards]hubShard

	addrMu sync.Mutex
	addrs  map[string]int // reserved connections by address, when they are bounded
}

type hubShard struct {
	mu       sync.RWMutex
	conns    map[string][]Conn // a slice is never changed, only replaced
	reserved map[string]int
}

// New makes a hub that admits perUser connections of one user and total in all.
func New(perUser, total int, o Options) *Hub {
	h := &Hub{perUser: perUser, total: total, seed: maphash.MakeSeed(), watch: o.Watch, perAddress: o.PerAddress, addrs: map[string]int{}}
	for i := range h.shards {
		h.shards[i].conns, h.shards[i].reserved = map[string][]Conn{}, map[string]int{}
	}
	return h
}

func (h *Hub) shard(user string) *hubShard {
	return &h.shards[maphash.String(h.seed, user)%hubShards]
}

// Reserve takes a place for one more connection of the user from the address, an AddressKey. The
// error is of kind Overloaded. release gives the place back and may be called more than once.
func (h *Hub) Reserve(user, addr string) (release func(), err error) {
	if !h.takeAddress(addr) {
		return nil, fault.Errorf("", fault.Overloaded, "this address has %d connections already", h.perAddress)
	}
	if err := h.reserve(user); err != nil {
		h.leaveAddress(addr)
		return nil, err
	}
	return sync.OnceFunc(func() { h.unreserve(user); h.leaveAddress(addr) }), nil
}

func (h *Hub) takeAddress(addr string) bool {
	if h.perAddress <= 0 {
		return true
	}
	h.addrMu.Lock()
	defer h.addrMu.Unlock()
	if h.addrs[addr] >= h.perAddress {
		return false
	}
	h.addrs[addr]++
	return true
}

func (h *Hub) leaveAddress(addr string) {
	if h.perAddress <= 0 {
		return
	}
	h.addrMu.Lock()
	defer h.addrMu.Unlock()
	if h.addrs[addr]--; h.addrs[addr] == 0 {
		delete(h.addrs, addr)
	}
}

func (h *Hub) reserve(user string) error {
	s := h.shard(user)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reserved[user] >= h.perUser {
		return fault.Errorf("", fault.Overloaded, "this user has %d connections already", h.perUser)
	}
	if h.count.Add(1) > int64(h.total) {
		h.count.Add(-1)
		return fault.Errorf("", fault.Overloaded, "this bridge holds all the connections it may")
	}
	s.reserved[user]++
	return nil
}

func (h *Hub) unreserve(user string) {
	s := h.shard(user)
	s.mu.Lock()
	defer s.mu.Unlock()
	h.count.Add(-1)
	if s.reserved[user]--; s.reserved[user] == 0 {
		delete(s.reserved, user)
	}
}

// Add makes the connection one of its user's: from now on it gets what is sent.
func (h *Hub) Add(c Conn) {
	s := h.shard(c.User())
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.conns[c.User()]
	s.conns[c.User()] = append(old[:len(old):len(old)], c)
	if len(old) == 0 && h.watch != nil {
		h.watch(c.User(), true)
	}
}

// Remove forgets the connection. It may be called for one that was never added.
func (h *Hub) Remove(c Conn) {
	s := h.shard(c.User())
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.conns[c.User()]
	i := slices.Index(old, c)
	switch {
	case i < 0:
	case len(old) == 1:
		delete(s.conns, c.User())
		if h.watch != nil {
			h.watch(c.User(), false)
		}
	default:
		s.conns[c.User()] = slices.Concat(old[:i], old[i+1:])
	}
}

// ToUser queues the event for every connection of the user and returns for how many. payload is
// JSON and must not be changed afterwards. Calls from one goroutine reach a connection in order.
func (h *Hub) ToUser(user, name string, payload []byte, at Position) int {
	s := h.shard(user)
	s.mu.RLock()
	conns := s.conns[user]
	s.mu.RUnlock()
	if len(conns) == 0 {
		return 0
	}
	return emit(conns, NewPacket(name, payload, at))
}

// ToAll is ToUser for everybody. With many connections the work is shared among the processors.
func (h *Hub) ToAll(name string, payload []byte, at Position) int {
	p := NewPacket(name, payload, at)
	workers := 1
	if h.count.Load() >= manyConnections {
		workers = min(runtime.GOMAXPROCS(0), maxWorkers)
	}
	var next, n atomic.Int64
	work := func() { // who is held up takes fewer shards
		var all [][]Conn
		for i := next.Add(1) - 1; i < hubShards; i = next.Add(1) - 1 {
			all = h.shards[i].connections(all[:0])
			sum := 0
			for _, conns := range all {
				sum += emit(conns, p)
			}
			n.Add(int64(sum))
		}
	}
	var others sync.WaitGroup
	for range workers - 1 {
		others.Go(work)
	}
	work()
	others.Wait()
	return int(n.Load())
}

const (
	manyConnections = 512 // from which on it pays to share a broadcast
	maxWorkers      = 8
)

// connections appends those of each user.
func (s *hubShard) connections(all [][]Conn) [][]Conn {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, conns := range s.conns {
		all = append(all, conns)
	}
	return all
}

func emit(conns []Conn, p *Packet) int {
	n := 0
	for _, c := range conns {
		if c.Emit(p) {
			n++
		}
	}
	return n
}

// Users iterates over the users that have a connection, and how many each has. Who comes or goes
// meanwhile may be in it or not; nothing is locked while the loop's body runs.
func (h *Hub) Users() iter.Seq2[string, int] {
	return func(yield func(string, int) bool) {
		for i := range h.shards {
			s := &h.shards[i]
			s.mu.RLock()
			users := maps.Clone(s.conns)
			s.mu.RUnlock()
			for user, conns := range users {
				if !yield(user, len(conns)) {
					return
				}
			}
		}
	}
}

// Connections is how many connections the user has.
func (h *Hub) Connections(user string) int {
	s := h.shard(user)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.conns[user])
}

// Len is the number of connections that get events.
func (h *Hub) Len() int {
	n := 0
	for i := range h.shards {
		s := &h.shards[i]
		s.mu.RLock()
		for _, conns := range s.conns {
			n += len(conns)
		}
		s.mu.RUnlock()
	}
	return n
}
