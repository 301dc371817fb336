package hub

import "sync"

// Message is one packet of a protocol on its way out.
type Message struct {
	Text   []byte
	Wire   []byte // a finished websocket frame whose end is Text, shared by all connections, or nil
	Event  bool   // an event; otherwise an answer to the client
	Binary bool   // Text is binary

	large bool // an answer that is large, or of a group
}

// largeShare of the bytes that may wait is what makes an answer a large one.
const largeShare = 8

// Queue holds what a connection has not been sent yet. Events are bounded in number and bytes;
// small answers, and large ones with groups of answers, are each bounded in bytes by themselves, and
// passed by at most one, so that a long replay pushes out neither a live event nor a ping or its
// answer. One message of any sort always fits. Safe for concurrent use.
type Queue struct {
	MaxMessages, MaxBytes int // set before the first use

	mu                     sync.Mutex
	items                  []Message
	events                 int
	eventBytes, replyBytes int
	largeBytes             int
	writing                bool // somebody took messages and has not come back for more
	closed                 bool
}

// Put adds m. full says that a bound was reached and m was not added; start says that nobody is
// writing and the caller has to see to it.
func (q *Queue) Put(m Message) (start, full bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.put(m)
}

func (q *Queue) put(m Message) (start, full bool) {
	n := len(m.Text)
	switch {
	case q.closed:
		return false, false
	case m.Event:
		if q.events >= q.MaxMessages || q.events > 0 && q.eventBytes+n > q.MaxBytes {
			return false, true
		}
		q.events++
		q.eventBytes += n
	default:
		m.large = n > q.MaxBytes/largeShare
		waiting := q.answers(m.large)
		if *waiting >= q.MaxBytes {
			return false, true
		}
		*waiting += n
	}
	q.items = append(q.items, m)
	start = !q.writing
	q.writing = true
	return start, false
}

// answers is the bytes of the answers of one sort.
func (q *Queue) answers(large bool) *int {
	if large {
		return &q.largeBytes
	}
	return &q.replyBytes
}

// PutAll is Put for answers that belong together: nothing comes between them, and the bound is
// asked once, as for one message.
func (q *Queue) PutAll(all []Message) (start, full bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for _, m := range all {
		n += len(m.Text)
	}
	switch {
	case q.closed, len(all) == 0:
		return false, false
	case q.largeBytes >= q.MaxBytes:
		return false, true
	}
	q.largeBytes += n
	for _, m := range all {
		m.Event, m.large = false, true
		q.items = append(q.items, m)
	}
	start = !q.writing
	q.writing = true
	return start, false
}

// Claim is Put for a caller who can write at once: when nothing is queued and nobody is writing,
// m is claimed, not added: the caller writes it and then takes the rest.
func (q *Queue) Claim(m Message) (claimed, start, full bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.writing && len(q.items) == 0 && !q.closed {
		q.writing = true
		return true, false, false
	}
	start, full = q.put(m)
	return false, start, full
}

// Seize makes the caller the one who writes, whoever was it before.
func (q *Queue) Seize() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.writing = true
}

// Take hands over the oldest messages, at least one and no more than about maxBytes, and appends
// them to buf. When there is none, the queue is idle again: the next Put says start.
func (q *Queue) Take(buf []Message, maxBytes int) []Message {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, size := 0, 0
	for n < len(q.items) && (n == 0 || size+len(q.items[n].Text) <= maxBytes) {
		m := q.items[n]
		size += len(m.Text)
		if m.Event {
			q.events--
			q.eventBytes -= len(m.Text)
		} else {
			*q.answers(m.large) -= len(m.Text)
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

// Idle reports whether everything was handed over and written.
func (q *Queue) Idle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items) == 0 && !q.writing
}

// Close drops what is queued and takes no more. It returns how many events were dropped.
func (q *Queue) Close() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := q.events
	q.closed, q.items, q.events, q.eventBytes, q.replyBytes, q.largeBytes = true, nil, 0, 0, 0, 0
	return n
}

// Rest says that what was taken is written, and that the writer does not come back at once.
func (q *Queue) Rest() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.writing = false
}
