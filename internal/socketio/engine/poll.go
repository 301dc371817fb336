package engine

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"eventspine/internal/socketio/hub"
)

const (
	answerBytes = 256 << 10             // of one GET, unless a single packet is larger
	probeWait   = 50 * time.Millisecond // for which a GET that comes during an upgrade waits
	maxPackets  = 256                   // of one POST
	separator   = 0x1e
)

// poll is the long-polling side of a session. Its writer is the GET that is waiting.
type poll struct {
	s       *Session
	wake    chan struct{} // holds one token: there may be something to do
	done    chan struct{} // closed when the session has ended
	last    []byte        // the packet for the GET that waits at the end; set before done is closed
	getting atomic.Bool
	posting atomic.Bool
	probing atomic.Bool // a websocket wants to take over

	mu sync.Mutex // held while a GET answers, and while the session moves
}

func newPoll(s *Session) *poll {
	return &poll{s: s, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

func (p *poll) signal() {
	select {
	case p.wake <- struct{}{}:
	default: // a token is there
	}
}

// end is called once, when the session has ended.
func (p *poll) end(byClient bool) {
	p.last = []byte("1")
	if byClient {
		p.last = []byte("6")
	}
	close(p.done)
}

func head(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
	w.Header().Set("Cache-Control", "no-store")
}

// handshake answers the request that opened the session.
func (p *poll) handshake(w http.ResponseWriter) {
	head(w)
	_, _ = w.Write(p.s.parameters([]string{webSocket})) // a client that is gone does not poll
}

// serve serves a request of the session.
func (p *poll) serve(w http.ResponseWriter, r *http.Request) *Refusal {
	switch r.Method {
	case http.MethodGet:
		return p.exclusive(&p.getting, w, r, p.get)
	case http.MethodPost:
		return p.exclusive(&p.posting, w, r, p.post)
	}
	return badRequest
}

// exclusive ends a session that has two requests of one kind at a time, as the protocol demands.
func (p *poll) exclusive(busy *atomic.Bool, w http.ResponseWriter, r *http.Request, serve func(http.ResponseWriter, *http.Request) *Refusal) *Refusal {
	if !busy.CompareAndSwap(false, true) {
		p.s.Violated(badOverlap)
		return badRequest
	}
	defer busy.Store(false)
	return serve(w, r)
}

// get answers with what is queued, and waits until there is something.
func (p *poll) get(w http.ResponseWriter, r *http.Request) *Refusal {
	probing := p.probing.Load()
	var wait <-chan time.Time
	if probing {
		t := time.NewTimer(probeWait)
		defer t.Stop()
		wait = t.C
	}
	for {
		answered, refusal := p.take(w)
		if answered || refusal != nil {
			return refusal
		}
		if !probing && p.probing.Load() { // it waited before: the client waits for its end
			return p.noop(w)
		}
		select {
		case <-p.wake:
		case <-wait:
			return p.noop(w)
		case <-p.done:
			p.s.srv.forget(p.s) // it may have been kept for this request
			head(w)
			_, _ = w.Write(p.last)
			return nil
		case <-r.Context().Done():
			p.s.End(endTransport)
			return badRequest
		}
	}
}

func (p *poll) noop(w http.ResponseWriter) *Refusal {
	head(w)
	_, _ = w.Write([]byte("6"))
	return nil
}

// take answers with what is queued, if something is.
func (p *poll) take(w http.ResponseWriter) (answered bool, refusal *Refusal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.s.ws.Load() != nil {
		return false, badRequest
	}
	batch := p.s.out.Take(nil, answerBytes)
	if len(batch) == 0 {
		return false, nil
	}
	p.answer(w, batch)
	return true, nil
}

func (p *poll) answer(w http.ResponseWriter, batch []hub.Message) {
	var out []byte
	events := 0
	for i, m := range batch {
		if i > 0 {
			out = append(out, separator)
		}
		if m.Binary {
			out = base64.StdEncoding.AppendEncode(append(out, 'b'), m.Text)
		} else {
			out = append(out, m.Text...)
		}
		if m.Event {
			events++
		}
	}
	head(w)
	control := http.NewResponseController(w)
	_ = control.SetWriteDeadline(time.Now().Add(p.s.srv.opt.WriteTimeout))
	_, err := w.Write(out)
	if flush := control.Flush(); !errors.Is(flush, http.ErrNotSupported) {
		err = errors.Join(err, flush)
	}
	_ = control.SetWriteDeadline(time.Time{})
	if err != nil { // what was taken is lost; a new connection asks for it
		p.s.End(endWrite)
		return
	}
	p.s.srv.opt.Observer.Delivered(events)
	p.s.out.Rest()
	if p.s.out.Idle() {
		p.s.drained()
	}
}

// post takes the packets of the body.
func (p *poll) post(w http.ResponseWriter, r *http.Request) *Refusal {
	body, rule := p.read(w, r)
	if rule != "" {
		p.s.Violated(rule)
		if rule == badSize {
			return &Refusal{http.StatusRequestEntityTooLarge, badRequest.Code, "Payload too large", badRequest.Kind}
		}
		return badRequest
	}
	for packet := range bytes.SplitSeq(body, []byte{separator}) {
		if p.s.gone.Load() {
			break // after a close
		}
		if !p.packet(packet) {
			return badRequest
		}
	}
	w.Header().Set("Content-Type", "text/html")
	_, _ = io.WriteString(w, "ok")
	return nil
}

func (p *poll) read(w http.ResponseWriter, r *http.Request) (body []byte, rule string) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(p.s.srv.opt.BodyTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(p.s.srv.opt.MaxPayload)))
	_ = control.SetReadDeadline(time.Time{})
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, badSize
	case err != nil:
		return nil, badBody
	case r.Header.Get("Content-Encoding") != "", strings.HasPrefix(r.Header.Get("Content-Type"), "application/octet-stream"),
		bytes.Count(body, []byte{separator}) >= maxPackets:
		return nil, badPayload
	}
	return body, ""
}

func (p *poll) packet(b []byte) (ok bool) {
	if len(b) == 0 || b[0] != 'b' {
		return p.s.receive(b)
	}
	data, err := base64.StdEncoding.AppendDecode(nil, b[1:])
	if err != nil {
		p.s.Violated(badPayload)
		return false
	}
	return p.s.receiveBinary(data)
}

// upgrade lets a websocket take over, once it has shown that it works.
func (s *Session) upgrade(w http.ResponseWriter, r *http.Request) *Refusal {
	first := s.ws.Load() == nil && !s.gone.Load() && s.poll.probing.CompareAndSwap(false, true)
	conn, err := s.srv.upgrader.Upgrade(w, r, nil)
	if err != nil || !first { // answered, or as the protocol has it: opened and closed
		if err == nil {
			_ = conn.Close()
		}
		if first {
			s.poll.probing.Store(false)
		}
		s.srv.opt.Observer.Refused(badRequest.Kind)
		return nil
	}
	ws := newSocket(conn, s.srv.opt.MaxPayload)
	ok := s.srv.spawn(func() {
		moved := s.probe(ws)
		s.poll.probing.Store(false)
		if !moved {
			_ = conn.Close()
			return
		}
		s.srv.opt.Observer.Moved(s)
		s.flush()
		s.read(ws)
	})
	if !ok {
		_ = conn.Close()
	}
	return nil
}

// probe does the exchange of an upgrade: ping, pong, upgrade. The session goes on polling until
// the last.
func (s *Session) probe(ws *socket) (moved bool) {
	p := s.poll
	_ = ws.conn.SetReadDeadline(time.Now().Add(s.srv.opt.UpgradeTimeout))
	if !s.expect(ws, "2probe") {
		return false
	}
	if ws.conn.WriteMessage(websocket.TextMessage, []byte("3probe")) != nil {
		return false
	}
	p.signal() // the GET that waits is answered, and the client does not poll again
	if !s.expect(ws, "5") {
		return false
	}
	_ = ws.conn.SetReadDeadline(time.Time{})
	_ = ws.net.SetWriteDeadline(time.Time{})
	p.mu.Lock()
	defer p.mu.Unlock()
	s.out.Seize()
	s.ws.Store(ws)
	p.signal() // a GET that waits nevertheless is refused
	return !s.gone.Load()
}

func (s *Session) expect(ws *socket, want string) bool {
	kind, b, err := ws.conn.ReadMessage()
	if err == nil && (kind != websocket.TextMessage || string(b) != want) {
		s.srv.opt.Observer.Violated(s, badUpgrade)
	}
	return err == nil && kind == websocket.TextMessage && string(b) == want
}
