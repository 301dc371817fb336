package socketio

import (
	"sync"

	"github.com/gorilla/websocket"
)

// message is one Engine.IO packet on its way out.
type message struct {
	text     []byte
	prepared *websocket.PreparedMessage // the same as a frame shared by all connections, or nil
	event    bool                       // an event; otherwise an answer to the client: open, pong, ack
}

// queue holds what a connection has not been sent yet. Events are bounded in number and bytes;
// answers are bounded in bytes by themselves, so that a long replay does not push out a live
// event. One message of either sort always fits. Safe for concurrent use.
type queue struct {
	maxMessages, maxBytes int

	mu                     sync.Mutex
	items                  []message
	events                 int
	eventBytes, replyBytes int
	writing                bool // somebody took messages and has not come back for more
	closed                 bool
}

// put adds m. full says that a bound was reached and m was not added; start says that nobody is
// writing and the caller has to see to it.
func (q *queue) put(m message) (start, full bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(m.text)
	switch {
	case q.closed:
		return false, false
	case m.event:
		if q.events >= q.maxMessages || q.events > 0 && q.eventBytes+n > q.maxBytes {
			return false, true
		}
		q.events++
		q.eventBytes += n
	default:
		if q.replyBytes > 0 && q.replyBytes+n > q.maxBytes {
			return false, true
		}
		q.replyBytes += n
	}
	q.items = append(q.items, m)
	start = !q.writing
	q.writing = true
	return start, false
}

// take hands over the oldest messages, at least one and no more than about maxBytes, and appends
// them to buf. When there is none, the queue is idle again: the next put says start.
func (q *queue) take(buf []message, maxBytes int) []message {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, size := 0, 0
	for n < len(q.items) && (n == 0 || size+len(q.items[n].text) <= maxBytes) {
		m := q.items[n]
		size += len(m.text)
		if m.event {
			q.events--
			q.eventBytes -= len(m.text)
		} else {
			q.replyBytes -= len(m.text)
		}
		n++
	}
	buf = append(buf, q.items[:n]...)
	clear(q.items[:n])
	if q.items = q.items[n:]; len(q.items) == 0 {
		q.items = nil
	}
	q.writing = n > 0
	return buf
}

// idle reports whether everything was handed over and written.
func (q *queue) idle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items) == 0 && !q.writing
}

// close drops what is queued and takes no more. It returns how many events were dropped.
func (q *queue) close() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := q.events
	q.closed, q.items, q.events, q.eventBytes, q.replyBytes = true, nil, 0, 0, 0
	return n
}

// rest says that what was taken is written, and that the writer does not come back at once.
func (q *queue) rest() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.writing = false
}
