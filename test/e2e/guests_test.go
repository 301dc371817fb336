package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"eventspine/internal/bridge/replay"
	"eventspine/internal/socketio/client"
	"eventspine/internal/socketio/wire"
)

// guest is a surfer that comes when it is told to.
type guest struct {
	*surfer
	visit func(*surfer, context.Context, string) error
	leave func() // and does not come back by itself
}

type guests []*guest

func (c guests) surfers() surfers {
	all := make(surfers, len(c))
	for i, g := range c {
		all[i] = g.surfer
	}
	return all
}

// connect returns when the client is connected, from the address.
func (g *guest) connect(t *testing.T, url, from string) {
	t.Helper()
	transport := &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	g.http = &http.Client{Transport: transport}
	before := g.ups()
	go func() {
		err := g.visit(g.surfer, ctx, url)
		if ctx.Err() == nil {
			t.Logf("%s is gone: %v", g.user, err)
		}
		ended <- err
	}()
	var left error
	g.leave = func() {
		cancel()
		if left == nil {
			left = errors.Join(<-ended, errLeft)
			transport.CloseIdleConnections()
		}
	}
	t.Cleanup(g.leave)
	eventually(t, 10*time.Second, func() bool { return g.ups() > before }, func() string { return g.user + " is not connected" })
}

var errLeft = errors.New("it left")

func (b *surfer) ups() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.up
}

// visitOld is a visit by Engine.IO 3, with a sync at its beginning.
func (b *surfer) visitOld(ctx context.Context, url string) error {
	c, err := client.Dial(ctx, url, b.token, client.Options{HTTP: b.http})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	b.mu.Lock()
	began := b.at
	b.mu.Unlock()
	since := any(began)
	if began == (replay.Position{}) {
		since = "now"
	}
	missed, info, err := c.SyncSince(ctx, since)
	var last replay.Position
	if err := errors.Join(err, json.Unmarshal(info.Last, &last)); err != nil || !info.Complete || info.More {
		return fmt.Errorf("sync: %+v %w", info, err)
	}
	b.mu.Lock()
	if b.up++; began != (replay.Position{}) {
		b.recovered++
	}
	for _, e := range missed {
		b.took(e)
	}
	b.at = last
	b.mu.Unlock()
	for {
		_, e, err := c.Recv(ctx)
		if err != nil {
			return err
		}
		if s := look("", e); s.UserID == "*" && s.Seq <= last.All || s.UserID != "*" && s.Seq <= last.User {
			continue // it was in the answer
		}
		b.mu.Lock()
		b.took(e)
		b.mu.Unlock()
	}
}

// visitByPolling is a visit by long-polling.
func (b *surfer) visitByPolling(ctx context.Context, url string) error {
	url += "/socket.io/?EIO=4&transport=polling"
	var hello struct{ SID string }
	for {
		text, err := b.ask(ctx, http.MethodGet, url, "")
		if err != nil {
			return err
		}
		if hello.SID == "" {
			if err := json.Unmarshal([]byte(strings.TrimPrefix(text, "0")), &hello); err != nil {
				return err
			}
			url += "&sid=" + hello.SID
		}
		for m := range strings.SplitSeq(text, "\x1e") {
			answer := b.packet(m)
			if answer == "" {
				continue
			}
			if _, err := b.ask(ctx, http.MethodPost, url, answer); err != nil {
				return err
			}
		}
	}
}

// visitOldByPolling is a visit by Engine.IO 3 and long-polling, with its cursor, and a ping each second.
func (b *surfer) visitOldByPolling(ctx context.Context, base string) error {
	b.mu.Lock()
	cursor, err := json.Marshal(b.at)
	if b.up == 0 {
		cursor = []byte("now")
	}
	b.mu.Unlock()
	at := base + "/socket.io/?" + url.Values{"EIO": {"3"}, "transport": {"polling"}, "token": {b.token}, "cursor": {string(cursor)}}.Encode()
	var pings sync.WaitGroup
	defer pings.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for err == nil {
		var text string
		if text, err = b.ask(ctx, http.MethodGet, at, ""); err != nil {
			break
		}
		var packets [][]byte
		packets, err = wire.SplitPayload([]byte(text))
		for _, p := range packets {
			if sid := b.packetOld(string(p)); sid != "" {
				at += "&sid=" + sid
				pings.Go(func() { b.ping(ctx, at) })
			}
		}
	}
	return err
}

// packetOld takes a packet of Engine.IO 3. It gives the session's id when it opens one.
func (b *surfer) packetOld(p string) (sid string) {
	var hello struct{ SID string }
	b.mu.Lock()
	switch {
	case strings.HasPrefix(p, "0") && json.Unmarshal([]byte(p[1:]), &hello) == nil:
	case p == "40":
		b.up++
	case strings.HasPrefix(p, `42["synced",{"complete":true,"more":false`) && b.up > 1:
		b.recovered++
	}
	b.mu.Unlock()
	if hello.SID == "" && p != "40" {
		b.packet(p) // an event is the same in both
	}
	return hello.SID
}

func (b *surfer) ping(ctx context.Context, at string) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_, _ = b.ask(ctx, http.MethodPost, at, string(wire.AppendPayload(nil, []byte("2")))) // the GET knows whether the session has ended
		}
	}
}

func (b *surfer) ask(ctx context.Context, method, url, body string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	answer, err := b.http.Do(r)
	if err != nil {
		return "", err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, text)
	}
	return string(text), err
}
