package socketio

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"eventspine/internal/fault"
	"eventspine/internal/socketio/hub"
	"eventspine/internal/socketio/wire"
)

// handshake is what the door knows of a request that opens a session. It travels in the
// request's context, through the engine, to the transport.
type handshake struct {
	user    User
	release []func() // gives back what was reserved
	session *session // set once the transport accepted
	confirm func()   // polling: the client came back
	cursor  json.RawMessage
}

type handshakeKey struct{}

func handshakeOf(r *http.Request) *handshake {
	h, _ := r.Context().Value(handshakeKey{}).(*handshake)
	return h
}

// refusal is the JSON that a refused client gets.
type refusal struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(refusal{code, message})
}

// turnAway is refuse with the reason counted.
func (s *Server) turnAway(w http.ResponseWriter, status int, kind fault.Kind, message string) {
	s.metrics.refused.WithLabelValues(kind.String()).Inc()
	refuse(w, status, kind.String(), message)
}

// ServeHTTP checks origin, protocol and token of every request, and then serves a session's
// request or opens a session.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.admitOrigin(w, r) {
		s.turnAway(w, http.StatusForbidden, fault.Forbidden, "this origin is not allowed")
		return
	}
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	query := r.URL.Query()
	if query.Get("EIO") != "3" {
		s.serveModern(w, r) // it refuses what is not 4
		return
	}
	user, err := s.identify(r)
	if err != nil {
		status := http.StatusUnauthorized
		switch fault.KindOf(err) {
		case fault.Forbidden:
			status = http.StatusForbidden
		case fault.Unavailable, fault.Overloaded:
			status = http.StatusServiceUnavailable
		}
		s.turnAway(w, status, fault.KindOf(err), err.Error())
		return
	}
	if sid := query.Get("sid"); sid != "" {
		s.resume(w, r, user, sid)
		return
	}
	s.open(w, r, user, query)
}

// admitOrigin sets the CORS headers. A request without an Origin comes from no browser page.
func (s *Server) admitOrigin(w http.ResponseWriter, r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	w.Header().Add("Vary", "Origin")
	if !slices.Contains(s.opt.Origins, "*") && !slices.Contains(s.opt.Origins, origin) {
		return false
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Allow-Credentials", "true")
	if r.Method == http.MethodOptions {
		h.Set("Access-Control-Allow-Methods", "GET, POST")
		h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type")
		h.Set("Access-Control-Max-Age", "600")
	}
	return true
}

// identify finds the token in the query or the Authorization header and verifies it.
func (s *Server) identify(r *http.Request) (User, error) {
	return s.verify(r.Context(), tokenOf(r, r.URL.Query()))
}

// tokenOf is the token in the query or the Authorization header, or empty.
func tokenOf(r *http.Request, query url.Values) string {
	if token := query.Get("token"); token != "" {
		return token
	}
	scheme, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(value)
	}
	return ""
}

// resume serves a polling request of a session that is open, for the user who opened it only.
func (s *Server) resume(w http.ResponseWriter, r *http.Request, user User, sid string) {
	s.mu.Lock()
	c := s.polls[sid]
	s.mu.Unlock()
	// One answer for a session that is gone and for one of somebody else.
	if c == nil || c.user.ID != user.ID || r.URL.Query().Get("transport") != c.transport {
		s.turnAway(w, http.StatusBadRequest, fault.NotFound, "there is no such session")
		return
	}
	c.ServeHTTP(w, r)
}

// open begins a session.
func (s *Server) open(w http.ResponseWriter, r *http.Request, user User, query url.Values) {
	h := &handshake{user: user, cursor: cursorOf(query.Get("cursor"))}
	if status, err := s.reserve(h, r); err != nil {
		h.giveBack()
		s.turnAway(w, status, fault.KindOf(err), err.Error())
		return
	}
	if !s.enter() {
		h.giveBack()
		s.turnAway(w, http.StatusServiceUnavailable, fault.Unavailable, "the bridge is shutting down")
		return
	}
	defer func() {
		if h.session == nil { // otherwise the engine's announcement ends the handshake
			h.giveBack()
			s.opening.Done()
		}
	}()
	r = r.WithContext(context.WithValue(r.Context(), handshakeKey{}, h))
	s.old.ServeHTTP(&engineWriter{ResponseWriter: w}, r)
}

// cursorOf is the query's cursor when it is JSON, and nil otherwise. A bare word such as now, which
// a query carries without quotes, is taken as a string.
func cursorOf(text string) json.RawMessage {
	switch {
	case text == "" || len(text) > maxCursor:
		return nil
	case json.Valid([]byte(text)):
		return json.RawMessage(text)
	case text == "now":
		return json.RawMessage(`"now"`)
	}
	return nil
}

const maxCursor = 1024 // bytes

// reserve checks that the request is a handshake and that every cap has room for it.
func (s *Server) reserve(h *handshake, r *http.Request) (status int, err error) {
	addr, now := hub.AddressKey(r.RemoteAddr), time.Now()
	if !s.limits.Begin(addr, now) {
		return http.StatusTooManyRequests, fault.Errorf("", fault.Overloaded, "too many handshakes from this address")
	}
	switch r.URL.Query().Get("transport") {
	case "websocket":
		if !websocket.IsWebSocketUpgrade(r) {
			return http.StatusBadRequest, fault.Errorf("", fault.Invalid, "this is no websocket upgrade")
		}
	case "polling":
		if r.Method != http.MethodGet || r.URL.Query().Has("j") {
			return http.StatusBadRequest, fault.Errorf("", fault.Invalid, "a polling handshake is a GET, and JSONP is not served")
		}
		confirm, ok := s.limits.Hold(addr, now)
		if !ok {
			return http.StatusTooManyRequests, fault.Errorf("", fault.Overloaded, "too many polling handshakes are unfinished")
		}
		h.confirm, h.release = confirm, append(h.release, confirm)
	default:
		return http.StatusBadRequest, fault.Errorf("", fault.Invalid, "transport must be websocket or polling")
	}
	release, err := s.hub.Reserve(h.user.ID, addr)
	if err != nil {
		return http.StatusTooManyRequests, err
	}
	h.release = append(h.release, release)
	return 0, nil
}

func (h *handshake) giveBack() {
	for _, release := range h.release {
		release()
	}
}

// engineWriter is the ResponseWriter that the engine gets: it puts the guard on a hijacked
// connection and drops what the engine writes after an answer has gone out.
type engineWriter struct {
	http.ResponseWriter
	session  *session
	answered bool
}

// Hijack implements http.Hijacker.
func (w *engineWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buf, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	w.answered = true
	return &wire.Guard{Conn: conn, Allow: w.session.allow, Refuse: w.session.violated, Vet: w.session.srv.vet}, buf, nil
}

// Unwrap serves http.ResponseController.
func (w *engineWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *engineWriter) WriteHeader(status int) {
	if !w.answered {
		w.ResponseWriter.WriteHeader(status)
	}
}

// Write implements http.ResponseWriter.
func (w *engineWriter) Write(b []byte) (int, error) {
	if w.answered {
		return len(b), nil
	}
	return w.ResponseWriter.Write(b)
}
