package v5

import (
	"encoding/json"
	"sync"
	"time"

	"eventspine/internal/fault"
	"eventspine/internal/socketio/engine"
	"eventspine/internal/socketio/hub"
	"eventspine/internal/socketio/wire"
)

// Socket is one client's connection to one namespace. Safe for concurrent use.
type Socket struct {
	conn      *conn
	namespace string
	handler   Namespace
	data      any // the namespace's own

	mu    sync.Mutex
	state state
	acks  map[uint64]*waiting
	next  uint64
}

type state uint8

const (
	connecting state = iota
	connected
	ended
)

// waiting is an ack that has not come yet.
type waiting struct {
	fn    func(args []json.RawMessage, attachments [][]byte, err error)
	timer *time.Timer
}

// Session is the session under the socket.
func (s *Socket) Session() *engine.Session { return s.conn.session }

// Attached is what Handler's attach made of the request that opened the session.
func (s *Socket) Attached() any { return s.conn.attached }

// SetData keeps a value with the socket; false when the socket has ended already.
func (s *Socket) SetData(v any) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.data = v
	return s.state != ended
}

// Data is what SetData kept, or nil.
func (s *Socket) Data() any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.data
}

func (s *Socket) accepted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state == connected
}

// Accept tells the client that it is connected. details is a JSON object that holds at least the
// sid. What is in more follows at once: nothing comes between. False means that the client is
// gone.
func (s *Socket) Accept(details []byte, more ...hub.Message) bool {
	s.mu.Lock()
	if s.state != connecting {
		s.mu.Unlock()
		return false
	}
	s.state = connected
	s.mu.Unlock()
	p := Packet{Kind: Connect, Namespace: s.namespace, Data: details}
	all := append(make([]hub.Message, 0, len(more)+1), hub.Message{Text: p.Append(nil)})
	return s.conn.session.SendAll(append(all, more...))
}

// Refuse tells the client why it is not connected; details is a JSON object with a message.
func (s *Socket) Refuse(details []byte) {
	p := Packet{Kind: ConnectError, Namespace: s.namespace, Data: details}
	s.mu.Lock()
	s.state = ended
	s.mu.Unlock()
	s.conn.leave(s, "") // first: the client may try again at once
	s.conn.session.Send(hub.Message{Text: p.Append(nil)})
}

// Emit sends an event: args is a JSON array that begins with the name, in which placeholders stand
// for the attachments.
func (s *Socket) Emit(args []byte, attachments ...[]byte) bool {
	return s.send(Event, BinaryEvent, false, 0, args, attachments)
}

// Ask is Emit for an event that the client acknowledges: fn is called once, with the arguments of
// the ack, or with an error when the client is gone or did not answer in time.
func (s *Socket) Ask(within time.Duration, fn func(args []json.RawMessage, attachments [][]byte, err error), args []byte, attachments ...[]byte) {
	s.mu.Lock()
	if s.state != connected {
		s.mu.Unlock()
		fn(nil, nil, ErrGone)
		return
	}
	id := s.next
	s.next++
	if s.acks == nil {
		s.acks = map[uint64]*waiting{}
	}
	s.acks[id] = &waiting{fn: fn, timer: time.AfterFunc(within, func() {
		s.resolve(id, nil, nil, fault.Errorf("", fault.Unavailable, "the client did not answer within %v", within))
	})}
	s.mu.Unlock()
	s.send(Event, BinaryEvent, true, id, args, attachments)
}

// resolve calls who waits for the ack, if anybody still does.
func (s *Socket) resolve(id uint64, args []json.RawMessage, attachments [][]byte, err error) {
	s.mu.Lock()
	w := s.acks[id]
	delete(s.acks, id)
	s.mu.Unlock()
	if w != nil {
		w.timer.Stop()
		w.fn(args, attachments, err)
	}
}

// Disconnect ends the socket; the client does not come back by itself.
func (s *Socket) Disconnect(reason string) {
	p := Packet{Kind: Disconnect, Namespace: s.namespace}
	s.conn.session.Send(hub.Message{Text: p.Append(nil)})
	s.conn.leave(s, reason)
}

func (s *Socket) send(plain, binary Kind, hasID bool, id uint64, data []byte, attachments [][]byte) bool {
	p := Packet{Kind: plain, Namespace: s.namespace, HasID: hasID, ID: id, Attachments: len(attachments), Data: data}
	if len(attachments) == 0 {
		return s.conn.session.Send(hub.Message{Text: p.Append(nil)})
	}
	p.Kind = binary
	all := append(make([]hub.Message, 0, len(attachments)+1), hub.Message{Text: p.Append(nil)})
	for _, b := range attachments {
		all = append(all, hub.Message{Text: b, Binary: true})
	}
	return s.conn.session.SendAll(all)
}

func (s *Socket) event(p *Packet, parts [][]byte) {
	e := Received{Attachments: parts, socket: s, wants: p.HasID, id: p.ID}
	if json.Unmarshal(p.Data, &e.Args) != nil || json.Unmarshal(e.Args[0], &e.Name) != nil { // Parse has looked
		s.conn.violated(wire.BadJSON)
		return
	}
	e.Args = e.Args[1:]
	s.handler.Event(s, e)
}

// ack takes an ack. One that nobody waits for came too late.
func (s *Socket) ack(p *Packet, parts [][]byte) {
	var args []json.RawMessage
	if json.Unmarshal(p.Data, &args) != nil {
		s.conn.violated(wire.BadJSON)
		return
	}
	s.resolve(p.ID, args, parts, nil)
}

// end is called when the socket is out of its session.
func (s *Socket) end(reason string) {
	s.mu.Lock()
	was := s.state
	s.state = ended
	acks := s.acks
	s.acks = nil
	s.mu.Unlock()
	for _, w := range acks {
		w.timer.Stop()
		w.fn(nil, nil, ErrGone)
	}
	if was != ended {
		s.handler.Disconnect(s, reason)
	}
}
