package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"eventspine/test/harness"
)

const (
	posters = 12
	pace    = 20 * time.Millisecond // between the requests of one poster
)

// load posts numbered events at a rate, each user's one after the other, and each again until
// the api says that it has it.
type load struct {
	url, typ string
	token    string
	users    []string
	rate     float64
	h        *History

	factor   atomic.Int32 // events come that many times as fast
	refused  atomic.Int64 // answers that were not 202
	failed   atomic.Int64 // requests without an answer
	mu       sync.Mutex
	accepted map[string][]string // ids by user
}

type item struct {
	id, user string
	n        int
}

func newLoad(url, mark string, users []string, rate float64, h *History) *load {
	l := &load{url: url, typ: "notification.chaos." + mark, token: harness.Token("generator", "emit"), users: users, rate: rate, h: h, accepted: map[string][]string{}}
	l.factor.Store(1)
	return l
}

// run posts for that long, and then until what was sent is accepted, or the context ends.
func (l *load) run(ctx context.Context, length time.Duration) {
	var wg sync.WaitGroup
	until := time.Now().Add(length)
	for i := range posters {
		wg.Go(func() { l.post(ctx, i, until) })
	}
	wg.Wait()
}

// post is one poster, with every posters-th user.
func (l *load) post(ctx context.Context, first int, until time.Time) {
	transport := &http.Transport{MaxIdleConns: 1}
	defer transport.CloseIdleConnections()
	c := &http.Client{Timeout: 5 * time.Second, Transport: transport}
	n, next := map[string]int{}, first
	tick := time.NewTicker(pace)
	defer tick.Stop()
	due, before := 0.0, time.Now()
	for time.Now().Before(until) && ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		due += min(now.Sub(before).Seconds(), 1) * l.rate / posters * float64(l.factor.Load())
		before = now
		var items []item
		for ; due >= 1 && len(items) < (len(l.users)-first+posters-1)/posters; due-- {
			u := l.users[next]
			if next += posters; next >= len(l.users) {
				next = first
			}
			n[u]++
			items = append(items, item{fmt.Sprintf("%s-%s-%d", l.typ[len("notification.chaos."):], u, n[u]), u, n[u]})
		}
		l.until(ctx, c, items)
	}
}

// until sends the items until all are accepted.
func (l *load) until(ctx context.Context, c *http.Client, items []item) {
	for _, it := range items {
		l.h.add(Record{What: Sent, ID: it.id, User: it.user, N: it.n})
	}
	for len(items) > 0 && ctx.Err() == nil {
		left := l.request(ctx, c, items)
		if len(left) == len(items) {
			pause(ctx, 100*time.Millisecond)
		}
		items = left
	}
}

func (l *load) event(dst []byte, it item) []byte {
	return fmt.Appendf(dst, `{"id":%q,"type":%q,"userId":%q,"data":{"n":%d,"text":"something happened that you wanted to know about"}}`+"\n", it.id, l.typ, it.user, it.n)
}

// request posts the items, one by itself and several as a batch, and returns those that were
// not accepted.
func (l *load) request(ctx context.Context, c *http.Client, items []item) (left []item) {
	path, typ := "/api/events/batch", "application/x-ndjson"
	if len(items) == 1 {
		path, typ = "/api/events", "application/json"
	}
	var body []byte
	for _, it := range items {
		body = l.event(body, it)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url+path, bytes.NewReader(body))
	if err != nil {
		return items
	}
	req.Header.Set("Authorization", "Bearer "+l.token)
	req.Header.Set("Content-Type", typ)
	answer, err := c.Do(req)
	if err != nil {
		l.failed.Add(1)
		return items
	}
	text, err := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	if err != nil {
		l.failed.Add(1)
		return items
	}
	left = refused(items, answer.StatusCode, text)
	l.refused.Add(int64(len(left)))
	l.took(items, left)
	return left
}

// refused is what the answer does not say yes to.
func refused(items []item, status int, text []byte) (left []item) {
	if status == http.StatusAccepted || status == http.StatusCreated {
		return nil
	}
	var body struct {
		Results []struct {
			Status int `json:"status"`
		} `json:"results"`
	}
	if json.Unmarshal(text, &body) != nil || len(body.Results) != len(items) {
		return items
	}
	for i, r := range body.Results {
		if r.Status != http.StatusAccepted {
			left = append(left, items[i])
		}
	}
	return left
}

func (l *load) took(items, left []item) {
	no := map[string]bool{}
	for _, it := range left {
		no[it.id] = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, it := range items {
		if !no[it.id] {
			l.h.add(Record{What: Accepted, ID: it.id, User: it.user, N: it.n})
			l.accepted[it.user] = append(l.accepted[it.user], it.id)
		}
	}
}

// count is how many events were accepted.
func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, ids := range l.accepted {
		n += len(ids)
	}
	return n
}

func (l *load) of(user string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.accepted[user]
}
