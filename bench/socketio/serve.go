package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"eventspine/internal/socketio"
	"eventspine/internal/socketio/hub"
)

// command is what the measurement tells a server to do, a line of JSON each; node/server.js
// understands the same.
type command struct {
	Do      string `json:"do"` // broadcast, targeted, flood, collect or count
	Size    int    `json:"size"`
	Rate    int    `json:"rate"`
	Seconds int    `json:"seconds"`
	Users   int    `json:"users"`
}

// reply is what a server says: its address first, and then one line for each command.
type reply struct {
	Addr       string `json:"addr,omitempty"`
	Done       string `json:"done,omitempty"`
	Sent       int    `json:"sent,omitempty"`
	N          int    `json:"n"`
	Goroutines int    `json:"goroutines,omitempty"`
	P99Micros  int    `json:"p99Micros,omitempty"` // of handing one targeted event to its connection
}

// serve is the bridge's Socket.IO server without the rest of the bridge.
func serve(ctx context.Context) error {
	h := hub.New(100, 100_000, hub.Options{})
	s, err := socketio.New(socketio.Options{Hub: h, HandshakeRate: 1_000_000, PendingPolls: 10_000,
		Verify: func(_ context.Context, token string) (socketio.User, error) {
			return socketio.User{ID: token, Expires: time.Now().Add(24 * time.Hour)}, nil
		}})
	if err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	web := &http.Server{Handler: s, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = web.Serve(l) }()
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(reply{Addr: l.Addr().String()}); err != nil {
		return err
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return err
		}
		if err := out.Encode(obey(h, c)); err != nil {
			return err
		}
	}
	return web.Close()
}

func obey(h *hub.Hub, c command) reply {
	r := reply{Done: c.Do}
	switch c.Do {
	case "broadcast":
		h.ToAll("alert", payload(c.Size), hub.Position{})
	case "targeted":
		r.Sent, r.P99Micros = targeted(h, c)
	case "flood":
		for range c.Rate {
			h.ToUser("stalled", "notification", payload(c.Size), hub.Position{})
		}
	case "collect":
		debug.FreeOSMemory()
	case "count":
		r.N, r.Goroutines = h.Len(), runtime.NumGoroutine()
	}
	return r
}

func targeted(h *hub.Hub, c command) (sent, p99 int) {
	took := make([]time.Duration, 0, c.Rate*c.Seconds)
	began, tick := time.Now(), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for sent < c.Rate*c.Seconds {
		<-tick.C
		due := min(c.Rate*c.Seconds, int(time.Since(began).Seconds()*float64(c.Rate)))
		for ; sent < due; sent++ {
			sending := time.Now()
			h.ToUser("u"+strconv.Itoa(sent*7919%c.Users), "notification", payload(c.Size), hub.Position{})
			took = append(took, time.Since(sending))
		}
	}
	slices.Sort(took)
	return sent, int(took[len(took)*99/100].Microseconds())
}

func payload(size int) []byte {
	return fmt.Appendf(nil, `{"t":%d,"data":"%s"}`, time.Now().UnixMicro(), strings.Repeat("x", size))
}
