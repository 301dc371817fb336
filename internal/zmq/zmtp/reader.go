package zmtp

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"slices"

	"eventspine/internal/zmq/curve"
)

const (
	flagMore    = 1
	flagLong    = 2
	flagCommand = 4

	growStep   = 64 << 10 // a frame longer than this grows as its bytes come in
	keepFrames = 64       // of a message; memory for more is not kept for the next one

	sealing = uint64(curve.Overhead)
)

// Limits bound what a peer may send. Every one must be positive.
type Limits struct {
	Frame   int64 // bytes of one frame
	Frames  int   // frames of one message
	Message int64 // bytes of one message
}

// Reader takes messages and commands off a connection. Not safe for concurrent use.
type Reader struct {
	r      *bufio.Reader
	lim    Limits
	frames [][]byte // of a message whose end has not come
	bytes  int64
	inside bool // between two frames of one message

	session *curve.Session // opens the frames; nil: they are plain
	sealed  []byte         // memory for them
}

// NewReader reads from r, which holds what came after the handshake.
func NewReader(r *bufio.Reader, lim Limits) *Reader { return &Reader{r: r, lim: lim} }

// Next gives the next whole message (cmd is nil) or the next command (msg is nil), which may
// also come between the frames of a message. The bytes belong to the caller. A frame with
// reserved flags, over a limit, or a malformed command is an ErrProtocol; after any error
// the Reader must not be used again.
func (r *Reader) Next() (msg [][]byte, cmd *Command, err error) {
	for {
		flags, one, err := r.frame()
		if err != nil {
			return nil, nil, err
		}
		if flags&flagCommand != 0 {
			cmd, err := ParseCommand(one[0])
			return nil, cmd, err
		}
		if flags&flagMore == 0 && !r.inside {
			return one, nil, nil
		}
		r.frames = append(r.frames, one[0])
		r.bytes += int64(len(one[0]))
		if r.inside = flags&flagMore != 0; !r.inside {
			msg = slices.Clone(r.frames)
			clear(r.frames)
			if r.frames, r.bytes = r.frames[:0], 0; cap(r.frames) > keepFrames {
				r.frames = nil
			}
			return msg, nil, nil
		}
	}
}

// frame gives the next frame as a message of one, opened when it is sealed.
func (r *Reader) frame() (flags byte, one [][]byte, err error) {
	flags, size, err := r.header()
	if err != nil {
		return 0, nil, err
	}
	if r.session != nil {
		return r.open(size)
	}
	if one = together(size); one == nil {
		body, err := r.body(size, nil)
		return flags, [][]byte{body}, err
	}
	if _, err = io.ReadFull(r.r, one[0]); err != nil {
		return 0, nil, ended(err, true)
	}
	return flags, one, nil
}

// open is frame for a sealed one of size bytes.
func (r *Reader) open(size uint64) (flags byte, one [][]byte, err error) {
	if r.sealed, err = r.body(size, r.sealed); err != nil {
		return 0, nil, err
	}
	if one = together(max(size, sealing) - sealing + 1); one == nil {
		one = make([][]byte, 1)
	}
	inner, body, err := r.session.OpenInto(one[0], r.sealed)
	if err != nil {
		return 0, nil, corrupt("%w", err)
	}
	one[0] = body
	if cap(r.sealed) > readBufferSize {
		r.sealed = nil
	}
	flags = inner & curve.More
	if inner&curve.Command != 0 {
		flags |= flagCommand
	}
	return flags, one, r.vet(flags, uint64(len(body)))
}

// header reads and vets flags and size, so that no memory is taken for what is refused.
func (r *Reader) header() (flags byte, size uint64, err error) {
	h, err := r.r.Peek(2)
	if err != nil {
		return 0, 0, ended(err, len(h) > 0 || r.inside)
	}
	flags, size = h[0], uint64(h[1])
	n := 2
	if flags&flagLong != 0 {
		if h, err = r.r.Peek(9); err != nil {
			return 0, 0, ended(err, true)
		}
		size, n = binary.BigEndian.Uint64(h[1:]), 9
	}
	if r.session != nil {
		err = r.vetSealed(flags, size)
	} else {
		err = r.vet(flags, size)
	}
	if err != nil {
		return 0, 0, err
	}
	_, err = r.r.Discard(n)
	return flags, size, err
}

func (r *Reader) vet(flags byte, size uint64) error {
	switch {
	case flags&^(flagMore|flagLong|flagCommand) != 0:
		return corrupt("reserved bits in frame flags %#02x", flags)
	case flags&flagCommand != 0 && flags&flagMore != 0:
		return corrupt("command with the MORE flag")
	case flags&flagCommand != 0 && size > maxCommand:
		return tooLarge("command of %d bytes, the limit is %d", size, maxCommand)
	case flags&flagCommand != 0:
		return nil
	case size > uint64(r.lim.Frame):
		return tooLarge("frame of %d bytes, the limit is %d", size, r.lim.Frame)
	case len(r.frames) >= r.lim.Frames:
		return tooLarge("message of more than %d frames", r.lim.Frames)
	case r.bytes+int64(size) > r.lim.Message:
		return tooLarge("message of more than %d bytes", r.lim.Message)
	}
	return nil
}

// vetSealed looks at a frame whose own flags and size are inside its box.
func (r *Reader) vetSealed(flags byte, size uint64) error {
	switch {
	case flags&^(flagLong|flagCommand) != 0:
		return corrupt("frame flags %#02x on a sealed frame", flags)
	case size > uint64(max(r.lim.Frame, maxCommand))+uint64(curve.Overhead):
		return tooLarge("sealed frame of %d bytes, the limit is %d", size, r.lim.Frame)
	}
	return nil
}

// body reads size bytes, into mem if they fit there. What was announced and has not come yet
// holds growStep bytes at most: a large frame is collected in pieces.
func (r *Reader) body(size uint64, mem []byte) ([]byte, error) {
	if size <= growStep {
		return r.fill(size, mem)
	}
	var pieces [][]byte
	for left := size; left > 0; {
		piece, err := r.fill(min(left, growStep), nil)
		if err != nil {
			return nil, err
		}
		pieces = append(pieces, piece)
		left -= uint64(len(piece))
	}
	if uint64(cap(mem)) < size {
		mem = make([]byte, size)
	}
	b := mem[:0]
	for _, piece := range pieces {
		b = append(b, piece...)
	}
	return b, nil
}

// fill reads size bytes, into mem if they fit there.
func (r *Reader) fill(size uint64, mem []byte) ([]byte, error) {
	if uint64(cap(mem)) < size {
		mem = make([]byte, size)
	}
	if _, err := io.ReadFull(r.r, mem[:size]); err != nil {
		return nil, ended(err, true)
	}
	return mem[:size], nil
}

// Pending reports whether a whole frame is in the buffer already, so that Next will not wait
// for its first one.
func (r *Reader) Pending() bool {
	n := r.r.Buffered()
	if n < 2 {
		return false
	}
	h, err := r.r.Peek(min(n, 9))
	switch {
	case err != nil:
		return false
	case h[0]&flagLong == 0:
		return n >= 2+int(h[1])
	case len(h) < 9:
		return false
	}
	size := binary.BigEndian.Uint64(h[1:])
	return size <= readBufferSize && n >= 9+int(size)
}

// ended tells a connection that was closed between two messages (EOF) from one cut inside.
func ended(err error, inside bool) error {
	if inside && errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
