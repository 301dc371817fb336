package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// client is one websocket of the load: it reads frames by hand, answers pings and notes when each
// event came.
type client struct {
	conn net.Conn
	in   *bufio.Reader
	buf  []byte

	mu   sync.Mutex
	took []time.Duration // of each event, from the server to here
}

const dialAtOnce = 32

var pong = []byte{0x81, 0x81, 0, 0, 0, 0, '3'}

// dialer knows where the server is and which Engine.IO the clients speak.
type dialer struct {
	addr string
	eio  int
}

// dial opens a session as the user and connects it.
func (d dialer) dial(user string, readBuffer int) (*client, error) {
	conn, err := new(net.Dialer).DialContext(context.Background(), "tcp", d.addr)
	if err != nil {
		return nil, err
	}
	if tcp, ok := conn.(*net.TCPConn); ok && readBuffer > 0 {
		if err := tcp.SetReadBuffer(readBuffer); err != nil {
			return nil, err
		}
	}
	c := &client{conn: conn, in: bufio.NewReaderSize(conn, 1024), buf: make([]byte, 2048)}
	if err := c.handshake(d.eio, user); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("connect %s: %w", user, err)
	}
	return c, nil
}

func (c *client) handshake(eio int, user string) error {
	_, err := fmt.Fprintf(c.conn, "GET /socket.io/?EIO=%d&transport=websocket&token=%s HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", eio, user)
	if err != nil {
		return err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return errors.New(resp.Status)
	}
	if eio == 4 {
		if err := c.send([]byte(`40{"token":"` + user + `"}`)); err != nil {
			return err
		}
	}
	for {
		b, err := c.next()
		switch {
		case err != nil:
			return err
		case bytes.HasPrefix(b, []byte("40")):
			return nil
		case bytes.HasPrefix(b, []byte("44")):
			return errors.New(string(b))
		}
	}
}

// send writes a short text frame, masked with zeros.
func (c *client) send(b []byte) error {
	_, err := c.conn.Write(append([]byte{0x81, 0x80 | byte(len(b)), 0, 0, 0, 0}, b...))
	return err
}

// next is the next text frame; its bytes are good until the next call.
func (c *client) next() ([]byte, error) {
	for {
		head := c.buf[:2]
		if _, err := io.ReadFull(c.in, head); err != nil {
			return nil, err
		}
		kind, n := head[0]&15, int(head[1]&127)
		if n >= 126 {
			more := c.buf[:2+6*(n-126)]
			if _, err := io.ReadFull(c.in, more); err != nil {
				return nil, err
			}
			if n = int(binary.BigEndian.Uint16(more)); len(more) == 8 {
				n = int(binary.BigEndian.Uint64(more))
			}
		}
		if n > len(c.buf) {
			c.buf = make([]byte, n)
		}
		if _, err := io.ReadFull(c.in, c.buf[:n]); err != nil {
			return nil, err
		}
		if kind == 1 {
			return c.buf[:n], nil
		}
	}
}

// herd is many clients and what they received.
type herd struct {
	all  []*client
	work sync.WaitGroup
	got  atomic.Int64
}

// gather connects n clients, each a user of its own.
func gather(d dialer, n int) (*herd, error) {
	h := &herd{all: make([]*client, n)}
	var g errgroup.Group
	g.SetLimit(dialAtOnce)
	for i := range n {
		g.Go(func() (err error) {
			h.all[i], err = d.dial("u"+strconv.Itoa(i), 0)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		h.close()
		return nil, err
	}
	for _, c := range h.all {
		h.work.Go(func() { h.read(c) })
	}
	return h, nil
}

func (h *herd) read(c *client) {
	for {
		b, err := c.next()
		if err != nil {
			return
		}
		if string(b) == "2" {
			if _, err := c.conn.Write(pong); err != nil {
				return
			}
			continue
		}
		if took, ok := age(b); ok {
			c.mu.Lock()
			c.took = append(c.took, took)
			c.mu.Unlock()
			h.got.Add(1)
		}
	}
}

// age is how long ago the event was sent.
func age(b []byte) (time.Duration, bool) {
	_, rest, ok := bytes.Cut(b, []byte(`"t":`))
	if !ok {
		return 0, false
	}
	digits, _, _ := bytes.Cut(rest, []byte(","))
	sent, err := strconv.ParseInt(string(digits), 10, 64)
	return time.Since(time.UnixMicro(sent)), err == nil
}

// await waits until n events came since the last reset, and returns how long each took, sorted.
func (h *herd) await(n int) ([]time.Duration, error) {
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for h.got.Load() < int64(n) {
		select {
		case <-tick.C:
		case <-limit.C:
			return nil, fmt.Errorf("%d of %d events came", h.got.Load(), n)
		}
	}
	took := make([]time.Duration, 0, n)
	for _, c := range h.all {
		c.mu.Lock()
		took = append(took, c.took...)
		c.took = c.took[:0]
		c.mu.Unlock()
	}
	h.got.Store(0)
	slices.Sort(took)
	return took, nil
}

func (h *herd) close() {
	for _, c := range h.all {
		if c != nil {
			_ = c.conn.Close()
		}
	}
	h.work.Wait()
}
