package zmq

import (
	"context"
	"log/slog"
	"time"
)

// EventKind says what happened to a connection.
type EventKind uint8

// The kinds of events.
const (
	Listening       EventKind = iota + 1 // Bind succeeded
	Connected                            // a connection finished its handshake, accepted or dialled
	Disconnected                         // such a connection ended; Err says why, nil for a peer that closed
	Retrying                             // a redial follows after Wait
	HandshakeFailed                      // a connection ended before it was a peer, or a dial failed to become one
	ProtocolError                        // a peer broke the protocol after its handshake
)

var eventNames = [...]string{"", "zmq_listen", "zmq_connect", "zmq_disconnect", "zmq_retry",
	"zmq_handshake_failed", "zmq_protocol_error"}

// String is the event's name in the logs, such as "zmq_connect".
func (k EventKind) String() string {
	if int(k) < len(eventNames) && k > 0 {
		return eventNames[k]
	}
	return "zmq_unknown"
}

// Event tells Options.Monitor about a connection. Fields that are not known are empty.
type Event struct {
	Kind     EventKind
	Socket   Type
	Endpoint string // what Bind or Connect was called with, with the actual port
	Remote   string // the peer's address
	PeerType string
	Identity string // the peer's
	Err      error
	Wait     time.Duration // until the next dial
}

// LogMonitor returns a monitor that writes each event as one line with the event's name as
// the message: refused and broken connections as warnings, the others as information.
func LogMonitor(log *slog.Logger) func(Event) {
	return func(e Event) {
		level := slog.LevelInfo
		if e.Kind == HandshakeFailed || e.Kind == ProtocolError {
			level = slog.LevelWarn
		}
		attrs := []slog.Attr{slog.String("socket", e.Socket.String()), slog.String("endpoint", e.Endpoint)}
		for _, f := range []struct{ key, value string }{{"remote", e.Remote}, {"peer_type", e.PeerType}, {"identity", e.Identity}} {
			if f.value != "" {
				attrs = append(attrs, slog.String(f.key, f.value))
			}
		}
		if e.Err != nil {
			attrs = append(attrs, slog.String("error", e.Err.Error()))
		}
		if e.Kind == Retrying {
			attrs = append(attrs, slog.Duration("wait", e.Wait))
		}
		log.LogAttrs(context.Background(), level, e.Kind.String(), attrs...)
	}
}

func (s *Socket) emit(e Event) {
	if s.opt.Monitor == nil {
		return
	}
	e.Socket = s.typ
	s.opt.Monitor(e)
}
