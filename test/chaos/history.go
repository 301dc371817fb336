package chaos

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"sync"
)

// What a record of a history says about an event.
const (
	Sent      = "sent"      // a caller wants it taken in; from now on it may exist
	Accepted  = "accepted"  // the api said so
	Delivered = "delivered" // a browser of User got it, live or by a sync
	Stored    = "stored"    // it is in the journal at the end
	Indexed   = "indexed"   // it is in the index at the end
)

// Record is one line of a history. Of one user's events the first has N 1, and each is sent
// after the one before it was accepted. Which members count depends on What.
type Record struct {
	What      string `json:"what"`
	ID        string `json:"id"`
	User      string `json:"user"` // whose event it is; when delivered: who got it
	N         int    `json:"n"`
	Partition int    `json:"partition,omitempty"`
	Seq       uint64 `json:"seq,omitempty"`
	Epoch     uint64 `json:"epoch,omitempty"`
	Sync      bool   `json:"sync,omitempty"` // delivered by the answer to a sync
	Late      bool   `json:"late,omitempty"` // delivered when all was over, by asking once more
}

// History is what was seen, in the order in which it was seen. Safe for concurrent use while
// it is written.
type History struct {
	Loses   bool // Redis lost data on the way
	Records []Record

	mu sync.Mutex
}

func (h *History) add(r ...Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Records = append(h.Records, r...)
}

// Write writes the history, one JSON object a line.
func (h *History) Write(w io.Writer) error {
	b := bufio.NewWriter(w)
	enc := json.NewEncoder(b)
	errs := []error{enc.Encode(map[string]bool{"loses": h.Loses})}
	for _, r := range h.Records {
		errs = append(errs, enc.Encode(r))
	}
	return errors.Join(append(errs, b.Flush())...)
}

// ReadHistory reads what Write wrote.
func ReadHistory(r io.Reader) (*History, error) {
	dec := json.NewDecoder(r)
	var head struct{ Loses bool }
	if err := dec.Decode(&head); err != nil {
		return nil, err
	}
	h := &History{Loses: head.Loses}
	for {
		var one Record
		if err := dec.Decode(&one); errors.Is(err, io.EOF) {
			return h, nil
		} else if err != nil {
			return nil, err
		}
		h.Records = append(h.Records, one)
	}
}
