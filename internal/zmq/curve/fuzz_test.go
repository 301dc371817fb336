package curve

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/crypto/nacl/box"

	"eventspine/internal/testkit/allocs"
)

// scripted is a Wire that says a fixed thing and hears nothing.
type scripted struct{ says []command }

func (s *scripted) SendCommand(string, []byte) error { return nil }
func (s *scripted) RecvCommand() (string, []byte, error) {
	if len(s.says) == 0 {
		return "", nil, errors.New("end")
	}
	c := s.says[0]
	s.says = s.says[1:]
	return c.name, c.body, nil
}

// forger is the other end of a handshake: it holds good keys and makes good boxes, and changes what
// is inside them. The bytes of each mask alter those of the plain text, and go on after it.
type forger struct {
	client, server Pair
	names          [2]string
	masks          [2][]byte
	toServer       bool // it plays the client
	turn           int
	own            Pair // of this connection
	their          [KeySize]byte
	cookie         []byte
}

// altered gives plain with the mask on it.
func altered(plain, mask []byte) []byte {
	out := bytes.Clone(plain)
	for i, b := range mask {
		if i < len(plain) {
			out[i] ^= b
		} else {
			out = append(out, b)
		}
	}
	return out
}

// intact reports whether the mask leaves the first n bytes as they are.
func intact(mask []byte, n int) bool {
	return len(bytes.Trim(mask[:min(n, len(mask))], "\x00")) == 0
}

func (f *forger) SendCommand(name string, body []byte) error {
	switch name {
	case "HELLO":
		f.their = [KeySize]byte(body[74:])
	case "WELCOME":
		server, own := [KeySize]byte(f.server.Public), [KeySize]byte(f.own.Secret)
		plain, ok := box.Open(nil, body[longNonce:], given("WELCOME-", body), &server, &own)
		if !ok {
			return errors.New("WELCOME does not open")
		}
		f.their, f.cookie = [KeySize]byte(plain), plain[KeySize:]
	}
	return nil
}

func (f *forger) RecvCommand() (string, []byte, error) {
	f.turn++
	own, server := [KeySize]byte(f.own.Secret), [KeySize]byte(f.server.Public)
	switch {
	case f.turn > 2:
		return "", nil, errors.New("end")
	case f.turn == 1 && f.toServer:
		hello := make([]byte, 74, helloSize)
		hello[0] = 1
		hello = append(hello, f.own.Public[:]...)
		hello = binary.BigEndian.AppendUint64(hello, 1)
		return f.names[0], box.Seal(hello, altered(make([]byte, 64), f.masks[0]), counted("CurveZMQHELLO---", 1), &server, &own), nil
	case f.turn == 1:
		long := [KeySize]byte(f.server.Secret)
		plain := altered(append(bytes.Clone(f.own.Public[:]), make([]byte, cookieSize)...), f.masks[0])
		nonce := make([]byte, longNonce)
		return f.names[0], box.Seal(bytes.Clone(nonce), plain, given("WELCOME-", nonce), &f.their, &long), nil
	case f.toServer:
		long, nonce := [KeySize]byte(f.client.Secret), make([]byte, longNonce)
		vouched := append(bytes.Clone(f.own.Public[:]), f.server.Public[:]...)
		plain := append(bytes.Clone(f.client.Public[:]), nonce...)
		plain = altered(box.Seal(plain, vouched, given("VOUCH---", nonce), &f.their, &long), f.masks[1])
		body := binary.BigEndian.AppendUint64(bytes.Clone(f.cookie), 2)
		return f.names[1], box.Seal(body, plain, counted("CurveZMQINITIATE", 2), &f.their, &own), nil
	}
	body := binary.BigEndian.AppendUint64(nil, 1)
	return f.names[1], box.Seal(body, f.masks[1], counted("CurveZMQREADY---", 1), &f.their, &own), nil
}

// admissible says whether the end that the forger talks to must let it in, and with what metadata.
func (f *forger) admissible() (metadata []byte, ok bool) {
	if f.toServer {
		proof := KeySize + vouchSize
		ok = f.names == [2]string{"HELLO", "INITIATE"} && len(f.masks[0]) <= 64 && intact(f.masks[1], proof)
		return f.masks[1][min(proof, len(f.masks[1])):], ok
	}
	ok = f.names == [2]string{"WELCOME", "READY"} && len(f.masks[0]) <= KeySize+cookieSize && intact(f.masks[0], KeySize)
	return f.masks[1], ok
}

// FuzzHandshake lets a stranger say anything in both commands of either part (role 0 and 1), and
// somebody with good keys put anything into good boxes (role 2 and 3). The stranger never gets a
// session, the other one exactly when what proves the keys is whole; nobody causes a panic or
// makes us take more memory than he sent and 64 KiB.
func FuzzHandshake(f *testing.F) {
	client, server := configs(f)
	var hello command
	shake(client, server, func(c *command) {
		if c.name == "HELLO" {
			hello = command{c.name, bytes.Clone(c.body)}
		}
	}, nil)
	f.Add(byte(0), "HELLO", hello.body, "INITIATE", make([]byte, minInitiate))
	f.Add(byte(0), "HELLO", []byte{}, "ERROR", []byte("\x03400"))
	f.Add(byte(1), "WELCOME", make([]byte, welcomeSize), "READY", make([]byte, 30))
	metadata := []byte("\x0bSocket-Type\x00\x00\x00\x04PUSH")
	f.Add(byte(2), "HELLO", []byte{}, "INITIATE", append(make([]byte, KeySize+vouchSize), metadata...))
	f.Add(byte(2), "HELLO", []byte{1}, "INITIATE", []byte{1})
	f.Add(byte(3), "WELCOME", []byte{}, "READY", metadata)
	f.Add(byte(3), "WELCOME", []byte{1}, "READY", []byte{})
	own := pair(f)
	f.Fuzz(func(t *testing.T, role byte, name1 string, body1 []byte, name2 string, body2 []byte) {
		role %= 4
		config := []Config{server, client}[role%2]
		if role < 2 {
			allocs.AtMost(t, len(name1)+len(body1)+len(name2)+len(body2)+allocs.Slack, func() {
				if s, _, err := Handshake(&scripted{says: []command{{name1, body1}, {name2, body2}}}, config, nil); err == nil || s != nil {
					t.Fatal("a session without a key")
				}
			})
			return
		}
		x := &forger{client: client.Keys, server: server.Keys, own: own, names: [2]string{name1, name2}, masks: [2][]byte{body1, body2}, toServer: role == 2}
		s, got, err := Handshake(x, config, []byte("ours"))
		metadata, ok := x.admissible()
		if ok != (err == nil) || ok && !bytes.Equal(got, metadata) {
			t.Fatalf("let in: %v, want %v: %v", err == nil, ok, err)
		}
		if err != nil && !errors.Is(err, ErrProtocol) || err == nil && s.Peer == (Key{}) {
			t.Fatalf("%v %v", s, err)
		}
	})
}

// FuzzOpen gives both ends frames of a stranger, none of which may open, and frames with anything
// inside a good box, which open once when their flags are good.
func FuzzOpen(f *testing.F) {
	client, server := sessions(f)
	f.Add(byte(0), client.Seal(nil, 0, []byte("x"))[:Overhead])
	f.Add(byte(1), []byte("\x07MESSAGE"))
	f.Add(byte(2), []byte("\x01body"))
	f.Add(byte(3), []byte("\x02\x04PING\x00\x00"))
	f.Add(byte(2), []byte{})
	f.Fuzz(func(t *testing.T, role byte, b []byte) {
		to, from := server, client
		if role&1 == 1 {
			to, from = client, server
		}
		if role&2 == 0 {
			allocs.AtMost(t, len(b)+allocs.Slack, func() {
				if _, _, err := to.Open(b); err == nil {
					t.Fatal("a forged frame opened")
				}
			})
			return
		}
		from.sent++
		frame := binary.BigEndian.AppendUint64([]byte(messageName), from.sent)
		frame = box.SealAfterPrecomputation(frame, b, counted(from.sealAs, from.sent), &from.shared)
		allocs.AtMost(t, len(frame)+allocs.Slack, func() {
			to.received = from.sent - 1
			_, _, _ = to.Open(frame)
		})
		to.received = from.sent - 1
		flags, body, err := to.Open(frame)
		good := len(b) > 0 && b[0]&^(More|Command) == 0
		if good != (err == nil) || good && (flags != b[0] || !bytes.Equal(body, b[1:])) {
			t.Fatalf("%q opened as %d %q: %v", b, flags, body, err)
		}
		if _, _, err := to.Open(frame); !errors.Is(err, ErrProtocol) {
			t.Fatalf("twice: %v", err)
		}
	})
}
