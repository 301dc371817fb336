package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"eventspine/internal/socketio/client"
	"eventspine/test/harness"
)

// payload is what a browser reads of an event.
type payload struct {
	ID     string `json:"id"`
	User   string `json:"userId"`
	Seq    uint64 `json:"seq"`
	Epoch  uint64 `json:"epoch"`
	Part   int    `json:"partition"`
	Source string `json:"source"`
	Data   struct {
		N int `json:"n"`
	} `json:"data"`
}

func (p payload) record(what string) Record {
	return Record{What: what, ID: p.ID, User: p.User, N: p.Data.N, Partition: p.Part, Seq: p.Seq, Epoch: p.Epoch}
}

// browser is one user's browser: it is connected whenever it can be, syncs after each connect
// from the newest number it saw, and writes down what it got. What came live while a sync was
// under way comes after the sync's answer, as a client that keeps the order does it.
type browser struct {
	user, url string
	h         *History

	mu         sync.Mutex
	last       uint64
	got        map[string]bool
	connects   int
	incomplete int
	late       bool // all is over: what comes now should have come before
	conn       *client.Client
}

func newBrowser(user, url string, h *History) *browser {
	return &browser{user: user, url: url, h: h, got: map[string]bool{}}
}

// run keeps the browser connected until the context ends.
func (b *browser) run(ctx context.Context) {
	for ctx.Err() == nil {
		if c := b.connect(ctx); c != nil {
			b.listen(ctx, c)
		}
		pause(ctx, 200*time.Millisecond)
	}
}

// pause waits for d or the end.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (b *browser) connect(ctx context.Context) *client.Client {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, b.url, harness.Token(b.user), client.Options{})
	if err != nil {
		return nil
	}
	for more := true; more; {
		var events []json.RawMessage
		var info client.Info
		b.mu.Lock()
		last := b.last
		b.mu.Unlock()
		if events, info, err = c.SyncSince(ctx, last); err != nil || info.Error != "" {
			_ = c.Close()
			return nil
		}
		for _, e := range events {
			b.take(e, true)
		}
		b.mu.Lock()
		if !info.Complete {
			b.incomplete++
		}
		more = info.More && b.last > last
		b.mu.Unlock()
	}
	return c
}

func (b *browser) listen(ctx context.Context, c *client.Client) {
	b.mu.Lock()
	b.connects++
	b.conn = c
	b.mu.Unlock()
	for {
		name, raw, err := c.Recv(ctx)
		if err != nil {
			_ = c.Close()
			return
		}
		switch name {
		case "closing", "token_expiring", "synced": // the bridge's own, of nobody's event
		default:
			b.take(raw, false)
		}
	}
}

func (b *browser) take(raw []byte, sync bool) {
	var p payload
	if err := json.Unmarshal(raw, &p); err != nil {
		p.ID = fmt.Sprintf("not JSON: %.80q", raw)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	r := p.record(Delivered)
	r.Sync, r.Late = sync, b.late
	if p.User != b.user {
		r.User = b.user
		r.ID = fmt.Sprintf("%s (of %s)", p.ID, p.User)
	}
	b.h.add(r)
	b.last = max(b.last, p.Seq)
	b.got[p.ID] = true
}

// missing is how many of the ids the browser does not have.
func (b *browser) missing(ids []string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, id := range ids {
		if !b.got[id] {
			n++
		}
	}
	return n
}

// reconnect ends the connection, so that the browser syncs once more.
func (b *browser) reconnect() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.late = true
	if b.conn != nil {
		_ = b.conn.Close()
	}
}
