package socketio

import (
	"sync"
	"sync/atomic"

	"eventspine/internal/socketio/hub"
)

// hold keeps live packets back until a connection has been given what it missed. The zero value
// lets everything through once open was called.
type hold struct {
	live atomic.Bool
	skip func(*hub.Packet) bool // set before live

	mu    sync.Mutex
	held  []*hub.Packet
	bytes int
}

// pass decides about a live packet: send it now, or not. full says that more is held than may be.
func (h *hold) pass(p *hub.Packet, maxMessages, maxBytes int) (send, full bool) {
	if !h.live.Load() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if !h.live.Load() {
			if len(h.held) >= maxMessages || h.bytes+len(p.Payload) > maxBytes && h.bytes > 0 {
				return false, true
			}
			h.held = append(h.held, p)
			h.bytes += len(p.Payload)
			return false, false
		}
	}
	return h.skip == nil || !h.skip(p), false
}

// open gives first the missed, by send, and then what was held and is not skipped; from then on
// packets pass.
func (h *hold) open(skip func(*hub.Packet) bool, send func(held []*hub.Packet)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.skip = skip
	held := h.held[:0]
	for _, p := range h.held {
		if skip == nil || !skip(p) {
			held = append(held, p)
		}
	}
	send(held)
	h.held, h.bytes = nil, 0
	h.live.Store(true)
}
