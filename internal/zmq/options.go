package zmq

import (
	"time"

	"eventspine/internal/fault"
	"eventspine/internal/zmq/transport"
	"eventspine/internal/zmq/zmtp"
)

// Type is a socket's pattern.
type Type uint8

// The socket types.
const (
	Push Type = iota + 1
	Pull
	Pub
	Sub
	XPub
	XSub
	Req
	Rep
	Dealer
	Router
	Pair
)

var typeNames = [...]string{"", "PUSH", "PULL", "PUB", "SUB", "XPUB", "XSUB", "REQ", "REP", "DEALER", "ROUTER", "PAIR"}

// partners lists the peer types that each type may talk to (RFC 28, 29, 30 and 31).
var partners = [...][]string{Push: {"PULL"}, Pull: {"PUSH"}, Pub: {"SUB", "XSUB"}, Sub: {"PUB", "XPUB"},
	XPub: {"SUB", "XSUB"}, XSub: {"PUB", "XPUB"}, Req: {"REP", "ROUTER"}, Rep: {"REQ", "DEALER"},
	Dealer: {"REP", "DEALER", "ROUTER"}, Router: {"REQ", "DEALER", "ROUTER"}, Pair: {"PAIR"}}

// String is the type's name on the wire, such as "PUSH".
func (t Type) String() string {
	if int(t) < len(typeNames) && t > 0 {
		return typeNames[t]
	}
	return "unknown"
}

// compatible says why a peer of the named type is refused, or nil.
func (t Type) compatible(peer string) error {
	for _, p := range partners[t] {
		if p == peer {
			return nil
		}
	}
	return fault.Errorf("zmq", fault.Invalid, "a %s peer cannot talk to our %s socket", peer, t)
}

// Msg is one message of one or more frames. Given to Send it belongs to the socket and must
// not be changed any more; got from Recv it belongs to the receiver.
type Msg [][]byte

// InprocNetwork is where the inproc:// endpoints of the sockets that share it meet; the zero value
// is ready. It is a value and not a package variable, so that two pipelines in one process do not
// see each other.
type InprocNetwork = transport.Inproc

// Options are a socket's settings. The zero value works: each zero field means its default.
type Options struct {
	SndHWM, RcvHWM     int            // messages a peer's queue may hold; default 1,000
	SndBytes, RcvBytes int            // bytes a peer's queue may hold before it counts as full; default 64 MiB. RcvBytes also bounds one message and one peer's subscriptions, each at topics.Cost
	MaxFrame           int64          // bytes; a longer frame closes its connection; default 16 MiB
	MaxFrames          int            // frames of one message; default 8,192
	HandshakeTimeout   time.Duration  // for TCP connect, greeting and READY; default 2 s
	Linger             time.Duration  // how long Close waits for unsent messages at most; default 1 s; negative: not at all
	ReconnectMin       time.Duration  // first wait before a redial, jittered; default 100 ms
	ReconnectMax       time.Duration  // longest wait before a redial; default 5 s
	Identity           string         // told to the peers, by which a ROUTER addresses us; at most 255 bytes, the first not zero
	Immediate          bool           // PUSH, DEALER and PAIR: queue nothing for an endpoint until it is connected
	Conflate           bool           // PUSH, PULL, PUB, SUB and DEALER: queues hold the newest message only
	Verbose            bool           // XPUB: Recv gives every subscription, not only a topic's first one
	HeartbeatInterval  time.Duration  // between PINGs to peers of ZMTP 3.1; default none
	HeartbeatTimeout   time.Duration  // of silence after a PING, then the connection is given up; default HeartbeatInterval
	HeartbeatTTL       time.Duration  // told to the peer, which may give us up after such a silence; at most 6,553 s; default none
	RouterDrop         bool           // ROUTER: drop and count what no peer can take; otherwise unroutable is ErrUnroutable and a full peer is waited for
	Handover           bool           // ROUTER: a new peer takes the identity of a connected one, which is cut off; otherwise the new one is refused
	Inproc             *InprocNetwork // where inproc:// names are bound; nil: this transport is refused
	Curve              *CurveOptions  // encrypts and proves every connection; nil: plain ones only
	Monitor            func(Event)    // called from the socket's goroutines, must not block or call the socket; nil: none
}

const (
	defaultHWM       = 1000
	defaultBytes     = 64 << 20
	defaultMaxFrame  = 16 << 20
	defaultMaxFrames = 8192
	maxIdentity      = 255
	maxTTL           = 6553 * time.Second // a PING's 16 bits count tenths of a second
)

func (o Options) withDefaults() Options {
	def(&o.SndHWM, defaultHWM)
	def(&o.RcvHWM, defaultHWM)
	def(&o.SndBytes, defaultBytes)
	def(&o.RcvBytes, defaultBytes)
	def(&o.MaxFrame, defaultMaxFrame)
	def(&o.MaxFrames, defaultMaxFrames)
	def(&o.HandshakeTimeout, 2*time.Second)
	def(&o.HeartbeatTimeout, o.HeartbeatInterval)
	o.HeartbeatTTL = min(max(o.HeartbeatTTL, 0), maxTTL)
	def(&o.ReconnectMin, 100*time.Millisecond)
	def(&o.ReconnectMax, 5*time.Second)
	o.ReconnectMax = max(o.ReconnectMax, o.ReconnectMin)
	if o.Linger == 0 {
		o.Linger = time.Second
	}
	return o
}

func def[T int | int64 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// conflatable are the types whose queues may hold one message only, as in libzmq.
var conflatable = [...]bool{Push: true, Pull: true, Pub: true, Sub: true, Dealer: true, Pair: false}

func (o Options) limits() zmtp.Limits {
	return zmtp.Limits{Frame: o.MaxFrame, Frames: o.MaxFrames, Message: max(int64(o.RcvBytes), o.MaxFrame)}
}
