package hub

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// Bucket is a token bucket: rate a second, burst at once. The zero time starts it full.
type Bucket struct {
	tokens float64
	last   time.Time
}

// Allow takes a token if there is one.
func (b *Bucket) Allow(now time.Time, rate, burst float64) bool {
	if b.last.IsZero() {
		b.tokens = burst
	} else {
		b.tokens = min(burst, b.tokens+now.Sub(b.last).Seconds()*rate)
	}
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// Burst is how many seconds' worth of a rate may come at once.
const Burst = 4

const (
	sweepEvery   = time.Minute
	maxAddresses = 100_000
)

// Limiter bounds, for each client address, how often it begins a handshake and how many polling
// handshakes it has left open. An IPv6 network of 64 bits is one address. Safe for concurrent use.
type Limiter struct {
	rate    float64 // handshakes a second
	pending int     // unfinished polling handshakes an address
	total   int     // the same over all addresses

	mu    sync.Mutex
	addrs map[string]*address
	open  int
	swept time.Time
}

type address struct {
	Bucket
	open int
}

// NewLimiter makes a limiter of rate handshakes a second and address, four times that in a
// burst, and of pending unfinished polling handshakes an address, total in all.
func NewLimiter(rate, pending, total int) *Limiter {
	return &Limiter{rate: float64(rate), pending: pending, total: total, addrs: map[string]*address{}}
}

// Begin asks for one handshake.
func (l *Limiter) Begin(addr string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.at(addr, now)
	return a != nil && a.Allow(now, l.rate, l.rate*Burst)
}

// Hold takes a place for a polling session nobody has polled yet; done gives it back, once.
func (l *Limiter) Hold(addr string, now time.Time) (done func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.at(addr, now)
	if a == nil || a.open >= l.pending || l.open >= l.total {
		return nil, false
	}
	a.open++
	l.open++
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		a.open--
		l.open--
	}), true
}

// at finds the address's record. Records that say nothing any more are swept away; nil means
// that too many are live.
func (l *Limiter) at(addr string, now time.Time) *address {
	if now.Sub(l.swept) > sweepEvery || len(l.addrs) >= maxAddresses && now.Sub(l.swept) > time.Second {
		l.swept = now
		for k, a := range l.addrs {
			if a.open == 0 && now.Sub(a.last) > Burst*time.Second {
				delete(l.addrs, k)
			}
		}
	}
	a := l.addrs[addr]
	if a == nil && len(l.addrs) < maxAddresses {
		a = &address{}
		l.addrs[addr] = a
	}
	return a
}

// AddressKey is the part of host:port that limits go by.
func AddressKey(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || ip.Is4() || ip.Is4In6() {
		return host
	}
	network, err := ip.WithZone("").Prefix(64)
	if err != nil {
		return host
	}
	return network.String()
}
