package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

// wire is a connection whose other side already said everything.
type wire struct {
	net.Conn
	in *bytes.Reader
}

func (w wire) Read(p []byte) (int, error) { return w.in.Read(p) }

// wsFrame is a masked frame as a client sends it.
func wsFrame(b0 byte, payload string) string {
	key := [4]byte{0x11, 0x22, 0x33, 0x44}
	out := []byte{b0}
	switch n := len(payload); {
	case n < 126:
		out = append(out, 0x80|byte(n))
	case n < 1<<16:
		out = binary.BigEndian.AppendUint16(append(out, 0x80|126), uint16(n))
	default:
		out = binary.BigEndian.AppendUint64(append(out, 0x80|127), uint64(n))
	}
	out = append(out, key[:]...)
	return string(append(out, unmask([]byte(payload), key[:])...))
}

func throughGuard(in string, rate func() bool) (out string, told []error, err error) {
	g := &Guard{Vet: Vet, Conn: wire{in: bytes.NewReader([]byte(in))}, Allow: rate, Refuse: func(e error) { told = append(told, e) }}
	b, err := io.ReadAll(g)
	return string(b), told, err
}

func always() bool { return true }

func TestGuardPassesWholeSmallTextFrames(t *testing.T) {
	good := wsFrame(0x81, "2") + wsFrame(0x89, "wsping") + wsFrame(0x81, `42["sync",1]`) +
		wsFrame(0x81, `42["sync","`+strings.Repeat("x", 60_000)+`"]`) + wsFrame(0x88, "\x03\xe8")
	out, told, err := throughGuard(good, always)
	if out != good || err != nil || told != nil {
		t.Errorf("%d of %d bytes came through, %v, %v", len(out), len(good), told, err)
	}
}

func TestGuardSwallowsWhatNobodyWaitsFor(t *testing.T) {
	out, told, err := throughGuard(wsFrame(0x81, "3")+wsFrame(0x81, "430[1]")+wsFrame(0x81, "40")+wsFrame(0x81, "2"), always)
	if out != wsFrame(0x81, "2") || err != nil || told != nil {
		t.Errorf("came through: %q, %v, %v", out, told, err)
	}
}

func TestGuardEndsTheConnection(t *testing.T) {
	huge := append([]byte{0x81, 0x80 | 127}, binary.BigEndian.AppendUint64(nil, 50<<20)...)
	endless := append([]byte{0x81, 0x80 | 127}, binary.BigEndian.AppendUint64(nil, 1<<63|5)...)
	for name, tt := range map[string]struct {
		in   string
		want error
	}{
		"first fragment":       {wsFrame(0x01, `42["sy`), BadFragment},
		"continuation":         {wsFrame(0x80, `nc"]`), BadFragment},
		"fragmented ping":      {wsFrame(0x09, ""), BadFragment},
		"binary":               {wsFrame(0x82, "\x04\x01"), BadBinary},
		"compressed":           {wsFrame(0xc1, "\xca\xc9"), BadReserved},
		"reserved opcode":      {wsFrame(0x83, "2"), BadControl},
		"long control frame":   {wsFrame(0x89, strings.Repeat("p", 126)), BadControl},
		"not masked":           {"\x81\x012", BadUnmasked},
		"50 MB announced":      {string(huge) + "\x00\x00\x00\x00", BadSize},
		"2^63 bytes announced": {string(endless) + "\x00\x00\x00\x00", BadSize},
		"one byte too many":    {wsFrame(0x81, strings.Repeat("2", MaxPacket+1)), BadSize},
		"binary event":         {wsFrame(0x81, `4599999999999999-["sync",1]`), BadPacket},
		"empty":                {wsFrame(0x81, ""), BadPacket},
	} {
		out, told, err := throughGuard(wsFrame(0x81, "2")+tt.in+wsFrame(0x81, "2"), always)
		if out != wsFrame(0x81, "2") || !errors.Is(err, tt.want) || len(told) != 1 {
			t.Errorf("%s: %d bytes came through, told %v, error %v, want %v", name, len(out), told, err, tt.want)
		}
	}
}

func TestGuardLimitsTheRate(t *testing.T) {
	left := 3
	out, told, err := throughGuard(strings.Repeat(wsFrame(0x81, "2"), 5), func() bool { left--; return left >= 0 })
	if out != strings.Repeat(wsFrame(0x81, "2"), 3) || !errors.Is(err, BadRate) || len(told) != 1 {
		t.Errorf("%d bytes came through, %v, %v", len(out), told, err)
	}
}

// FuzzGuard: what comes out is a prefix of what went in (nothing here is swallowed twice or
// invented), made of whole frames that the guard passes again.
func FuzzGuard(f *testing.F) {
	f.Add([]byte(wsFrame(0x81, "2") + wsFrame(0x81, `42["sync",1]`)))
	f.Add([]byte(wsFrame(0x01, "2") + wsFrame(0x80, "2")))
	f.Add([]byte(wsFrame(0x81, "3") + wsFrame(0x89, "")))
	f.Add([]byte("\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		out, told, err := throughGuard(string(in), always)
		if len(out) > len(in) || len(told) > 1 || len(told) == 1 && err == nil {
			t.Fatalf("%d bytes of %d, told %v, error %v", len(out), len(in), told, err)
		}
		again, told, err := throughGuard(out, always)
		if again != out || told != nil || err != nil {
			t.Fatalf("passed once but not twice: %v, %v", told, err)
		}
	})
}
