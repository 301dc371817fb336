package wire

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
)

// Guard stands between a hijacked connection and the websocket library. Its Read yields only
// whole frames that vet passed: final, masked, without extension bits, text of at most MaxPacket
// bytes, or a control frame. The first other frame ends the connection with a violation.
// Memory for a frame is taken only after its length was checked.
type Guard struct {
	net.Conn
	Allow  func() bool // the inbound rate; false ends the connection
	Refuse func(error) // told of the Violation, once
	Vet    func([]byte) (Verdict, error)

	head  [14]byte
	frame []byte // checked bytes nobody read yet
	err   error
}

const (
	opText  = 1
	opClose = 8
	opPong  = 10
)

// Read implements net.Conn.
func (g *Guard) Read(p []byte) (int, error) {
	for len(g.frame) == 0 {
		if g.err != nil {
			return 0, g.err
		}
		if err := g.fill(); err != nil {
			g.err = err
			var broken Violation
			if errors.As(err, &broken) {
				g.Refuse(err)
			}
			return 0, err
		}
	}
	n := copy(p, g.frame)
	if g.frame = g.frame[n:]; len(g.frame) == 0 {
		g.frame = nil
	}
	return n, nil
}

// fill reads one frame; frame stays empty when it was swallowed.
func (g *Guard) fill() error {
	head, size, err := g.header()
	if err != nil {
		return err
	}
	frame := make([]byte, len(head)+size)
	copy(frame, head)
	body := frame[len(head):]
	if _, err := io.ReadFull(g.Conn, body); err != nil {
		return err
	}
	if !g.Allow() {
		return BadRate
	}
	if head[0]&15 != opText {
		g.frame = frame
		return nil
	}
	verdict, err := g.Vet(unmask(body, head[len(head)-4:]))
	if err != nil {
		return err
	}
	if verdict == Pass {
		g.frame = frame
	}
	return nil
}

// header reads a frame's header and checks all that can be known from it.
func (g *Guard) header() (head []byte, size int, err error) {
	if _, err := io.ReadFull(g.Conn, g.head[:2]); err != nil {
		return nil, 0, err
	}
	if err := vetHeader(g.head[0], g.head[1]); err != nil {
		return nil, 0, err
	}
	n := 2
	switch size = int(g.head[1] & 127); size {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if _, err := io.ReadFull(g.Conn, g.head[2:n+4]); err != nil {
		return nil, 0, err
	}
	switch n {
	case 4:
		size = int(binary.BigEndian.Uint16(g.head[2:]))
	case 10:
		long := binary.BigEndian.Uint64(g.head[2:])
		if long > MaxPacket {
			return nil, 0, BadSize
		}
		size = int(long)
	}
	return g.head[:n+4], size, nil
}

func vetHeader(b0, b1 byte) error {
	op := b0 & 15
	switch {
	case b0&0x70 != 0:
		return BadReserved
	case op == 0, b0&0x80 == 0:
		return BadFragment
	case op == 2:
		return BadBinary
	case op != opText && (op < opClose || op > opPong || b1&127 > 125):
		return BadControl
	case b1&0x80 == 0:
		return BadUnmasked
	}
	return nil
}

func unmask(body, key []byte) []byte {
	out := make([]byte, len(body))
	for i, c := range body {
		out[i] = c ^ key[i&3]
	}
	return out
}
