package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// The generator shares the machine with what it measures, so it speaks the least HTTP and
// WebSocket that the two servers need: what a general client spends on an event is as much
// as a service does.

// poster is one keep-alive connection to the api.
type poster struct {
	conn   net.Conn
	in     *bufio.Reader
	prefix string // of every request, after the path
	out    []byte
	body   []byte // of the caller
}

// dial connects to the host of a base URL.
func dial(ctx context.Context, base string) (conn net.Conn, host string, err error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, "", err
	}
	conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", u.Host)
	return conn, u.Host, err
}

func dialAPI(ctx context.Context, base, token string) (*poster, error) {
	conn, host, err := dial(ctx, base)
	if err != nil {
		return nil, err
	}
	return &poster{conn: conn, in: bufio.NewReader(conn),
		prefix: " HTTP/1.1\r\nHost: " + host + "\r\nAuthorization: Bearer " + token + "\r\n"}, nil
}

// post sends one request and waits for its answer, 30 s at most.
func (p *poster) post(path, contentType string, body []byte) (int, []byte, error) {
	p.out = append(append(append(p.out[:0], "POST "...), path...), p.prefix...)
	p.out = append(append(append(p.out, "Content-Type: "...), contentType...), "\r\nContent-Length: "...)
	p.out = append(append(strconv.AppendInt(p.out, int64(len(body)), 10), "\r\n\r\n"...), body...)
	if err := p.conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return 0, nil, err
	}
	if _, err := p.conn.Write(p.out); err != nil {
		return 0, nil, err
	}
	answer, err := http.ReadResponse(p.in, nil)
	if err != nil {
		return 0, nil, err
	}
	text, err := io.ReadAll(answer.Body)
	return answer.StatusCode, text, errors.Join(err, answer.Body.Close())
}

// browser is one Socket.IO client for Engine.IO 3 over WebSocket that only listens.
type browser struct {
	conn net.Conn
	in   *bufio.Reader
	buf  []byte
}

func dialBridge(ctx context.Context, base, token string) (*browser, error) {
	conn, host, err := dial(ctx, base)
	if err != nil {
		return nil, err
	}
	b := &browser{conn: conn, in: bufio.NewReader(conn)}
	if err := b.open(host, token); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return b, nil
}

func (b *browser) open(host, token string) error {
	key := make([]byte, 16)
	_, _ = rand.Read(key) // never fails
	query := url.Values{"EIO": {"3"}, "transport": {"websocket"}, "token": {token}}.Encode()
	if _, err := fmt.Fprintf(b.conn, "GET /socket.io/?%s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", query, host, base64.StdEncoding.EncodeToString(key)); err != nil {
		return err
	}
	answer, err := http.ReadResponse(b.in, nil)
	if err != nil {
		return err
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("the bridge answered %s", answer.Status)
	}
	for {
		packet, err := b.next()
		if err != nil || bytes.HasPrefix(packet, []byte("40")) {
			return err
		}
	}
}

// next gives the next packet; its bytes hold until the next call.
func (b *browser) next() ([]byte, error) {
	head, err := b.in.Peek(2)
	if err != nil {
		return nil, err
	}
	opcode, size, length := head[0], uint64(head[1]), 2
	switch size {
	case 126:
		if head, err = b.in.Peek(4); err != nil {
			return nil, err
		}
		size, length = uint64(binary.BigEndian.Uint16(head[2:])), 4
	case 127:
		if head, err = b.in.Peek(10); err != nil {
			return nil, err
		}
		size, length = binary.BigEndian.Uint64(head[2:]), 10
	}
	if opcode != 0x81 || size > 1<<20 {
		return nil, fmt.Errorf("the bridge sent a frame of type %#x and %d bytes", opcode, size)
	}
	_, _ = b.in.Discard(length) // it was there to peek at
	if uint64(cap(b.buf)) < size {
		b.buf = make([]byte, size)
	}
	b.buf = b.buf[:size]
	_, err = io.ReadFull(b.in, b.buf)
	return b.buf, err
}

// ping keeps the session: Engine.IO 3 wants a ping from the client every 25 s. A frame of a
// client is masked; this one by zeros.
func (b *browser) ping() error {
	_, err := b.conn.Write([]byte{0x81, 0x81, 0, 0, 0, 0, '2'})
	return err
}

// event reads what the generator put into an event: its number and when it was due.
func (p *part) event(packet []byte) (n, due int64, ok bool) {
	if !bytes.Contains(packet, p.mark) {
		return 0, 0, false
	}
	n, ok = member(packet, `"data":{"n":`)
	if ok {
		due, ok = member(packet, `,"due":`)
	}
	return n, due, ok && n >= 0 && n < int64(len(p.seen))
}

// member is the whole number that follows the name.
func member(packet []byte, name string) (int64, bool) {
	_, rest, ok := bytes.Cut(packet, []byte(name))
	end := 0
	for end < len(rest) && rest[end] >= '0' && rest[end] <= '9' {
		end++
	}
	v, err := strconv.ParseInt(string(rest[:end]), 10, 64)
	return v, ok && err == nil
}
