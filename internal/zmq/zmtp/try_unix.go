//go:build unix

package zmtp

import (
	"errors"
	"io"
	"syscall"
)

// tryWriter gives a way to write to w without ever waiting, nil when w has none.
func tryWriter(w io.Writer) func([]byte) (int, error) {
	if own, ok := w.(interface{ TryWrite([]byte) (int, error) }); ok {
		return own.TryWrite
	}
	c, ok := w.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	t := &try{raw: raw}
	t.write = t.once
	return t.do
}

// try is one write at a time to a socket that does not block.
type try struct {
	raw   syscall.RawConn
	write func(fd uintptr) bool
	b     []byte
	n     int
	err   error
}

func (t *try) do(b []byte) (int, error) {
	t.b, t.n, t.err = b, 0, nil
	err := t.raw.Write(t.write)
	t.b = nil
	return t.n, errors.Join(err, t.err)
}

// once is always done, so that nothing is waited for.
func (t *try) once(fd uintptr) bool {
	for {
		n, err := syscall.Write(int(fd), t.b)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EAGAIN):
		case err != nil:
			t.err = err
		default:
			t.n = n
		}
		return true
	}
}
