package curve

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"eventspine/internal/fault"
)

func pair(t testing.TB) Pair {
	t.Helper()
	p, err := GenerateKeys()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// command is one command on its way.
type command struct {
	name string
	body []byte
}

// line is a Wire over channels; change may alter what this end sends.
type line struct {
	out    chan<- command
	in     <-chan command
	change func(*command)
}

func (l line) SendCommand(name string, body []byte) error {
	c := command{name, bytes.Clone(body)}
	if l.change != nil {
		l.change(&c)
	}
	l.out <- c
	return nil
}

func (l line) RecvCommand() (string, []byte, error) {
	c, ok := <-l.in
	if !ok {
		return "", nil, errors.New("the other end gave up")
	}
	return c.name, c.body, nil
}

type result struct {
	s    *Session
	meta []byte
	err  error
}

// shake runs both ends; each change alters what that end sends.
func shake(client, server Config, changeClient, changeServer func(*command)) (c, s result) {
	up, down := make(chan command, 4), make(chan command, 4)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.s, s.meta, s.err = Handshake(line{down, up, changeServer}, server, []byte("server's"))
		close(down)
	}()
	c.s, c.meta, c.err = Handshake(line{up, down, changeClient}, client, []byte("client's"))
	close(up)
	<-done
	return c, s
}

func configs(t testing.TB) (client, server Config) {
	t.Helper()
	c, s := pair(t), pair(t)
	return Config{Keys: c, ServerKey: s.Public}, Config{Server: true, Keys: s}
}

func TestHandshake(t *testing.T) {
	client, server := configs(t)
	var asked string
	server.Authorize = func(k Key, meta []byte) error { asked = k.Z85() + string(meta); return nil }
	c, s := shake(client, server, nil, nil)
	if c.err != nil || s.err != nil {
		t.Fatal(c.err, s.err)
	}
	if string(c.meta) != "server's" || string(s.meta) != "client's" || asked != client.Keys.Public.Z85()+"client's" {
		t.Errorf("%q %q %q", c.meta, s.meta, asked)
	}
	if c.s.Peer != server.Keys.Public || s.s.Peer != client.Keys.Public {
		t.Error("the sessions do not know whom they talk to")
	}
}

func TestEachChangedCommandIsNoticed(t *testing.T) {
	client, server := configs(t)
	flip := func(name string, at int) func(*command) {
		return func(c *command) {
			if c.name == name {
				c.body[(at+len(c.body))%len(c.body)] ^= 0x10
			}
		}
	}
	for _, tc := range []struct {
		name     string
		up, down func(*command)
	}{
		{"HELLO version", flip("HELLO", 0), nil}, {"HELLO key", flip("HELLO", 80), nil}, {"HELLO nonce", flip("HELLO", 113), nil},
		{"HELLO box", flip("HELLO", -1), nil}, {"WELCOME nonce", nil, flip("WELCOME", 0)}, {"WELCOME box", nil, flip("WELCOME", -1)},
		{"INITIATE cookie", flip("INITIATE", 3), nil}, {"INITIATE nonce", flip("INITIATE", cookieSize+7), nil},
		{"INITIATE box", flip("INITIATE", -1), nil}, {"READY nonce", nil, flip("READY", 7)}, {"READY box", nil, flip("READY", -1)},
		{"short HELLO", func(c *command) { c.body = c.body[:min(len(c.body), 100)] }, nil},
		{"short WELCOME", nil, func(c *command) { c.body = c.body[:min(len(c.body), 100)] }},
		{"long WELCOME", nil, func(c *command) { c.body = append(c.body, 0) }},
		{"long HELLO", func(c *command) { c.body = append(c.body, 0) }, nil},
		{"other name", func(c *command) { c.name = "READY" }, nil},
		{"other answer", nil, func(c *command) { c.name = "HELLO" }},
		{"repeated nonce", func(c *command) {
			if c.name == "INITIATE" {
				clear(c.body[cookieSize : cookieSize+8])
			}
		}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, s := shake(client, server, tc.up, tc.down)
			if !errors.Is(c.err, ErrProtocol) && !errors.Is(s.err, ErrProtocol) {
				t.Errorf("client %v, server %v", c.err, s.err)
			}
			if tc.down == nil && s.s != nil || tc.up == nil && c.s != nil {
				t.Error("a session came of it")
			}
		})
	}
}

func TestKeysThatDoNotFit(t *testing.T) {
	client, server := configs(t)
	other := client
	other.ServerKey = pair(t).Public
	if _, s := shake(other, server, nil, nil); !errors.Is(s.err, ErrProtocol) {
		t.Errorf("another server's key: %v", s.err)
	}
	thief := client // knows a public key, not its secret
	thief.Keys.Secret = pair(t).Secret
	if _, s := shake(thief, server, nil, nil); !errors.Is(s.err, ErrProtocol) || !strings.Contains(s.err.Error(), "prove") {
		t.Errorf("a stolen public key: %v", s.err)
	}
	server.Authorize = func(Key, []byte) error { return fs("not today") }
	c, s := shake(client, server, nil, nil)
	if !errors.Is(s.err, ErrDenied) || !strings.Contains(s.err.Error(), "not today") || c.err == nil || strings.Contains(c.err.Error(), "today") {
		t.Errorf("denied: %v, %v", c.err, s.err)
	}
}

type fs string

func (f fs) Error() string { return string(f) }

func sessions(t testing.TB) (c, s *Session) {
	t.Helper()
	client, server := configs(t)
	a, b := shake(client, server, nil, nil)
	if a.err != nil || b.err != nil {
		t.Fatal(a.err, b.err)
	}
	return a.s, b.s
}

func TestWhatIsSealedOpens(t *testing.T) {
	c, s := sessions(t)
	rapid.Check(t, func(t *rapid.T) {
		from, to := c, s
		if rapid.Bool().Draw(t, "back") {
			from, to = s, c
		}
		body := rapid.SliceOfN(rapid.Byte(), 0, 600).Draw(t, "body")
		flags := rapid.SampledFrom([]byte{0, More, Command}).Draw(t, "flags")
		sealed := from.Seal([]byte("before"), flags, body)[6:]
		if len(sealed) != Overhead+len(body) {
			t.Fatalf("%d bytes for %d", len(sealed), len(body))
		}
		gotFlags, got, err := to.Open(sealed)
		if err != nil || gotFlags != flags || !bytes.Equal(got, body) {
			t.Fatalf("%v %q %v", gotFlags, got, err)
		}
		if _, _, err := to.Open(sealed); !errors.Is(err, ErrProtocol) {
			t.Fatalf("the same frame twice: %v", err)
		}
	})
}

func TestSealedFramesThatAreRefused(t *testing.T) {
	c, s := sessions(t)
	one := c.Seal(nil, 0, []byte("one"))
	for name, b := range map[string][]byte{"nothing": nil, "short": one[:Overhead-1], "another name": append([]byte("\x07MASSAGE"), one[8:]...),
		"to its sender": s.Seal(nil, 0, []byte("x")), "reserved flags": c.Seal(nil, 4, nil)} {
		if _, _, err := s.Open(b); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c, s = sessions(t)
	first, two := c.Seal(nil, 0, []byte("first")), c.Seal(nil, 0, []byte("two"))
	for i := range first {
		bad := bytes.Clone(first)
		bad[i] ^= 1
		if _, _, err := s.Open(bad); !errors.Is(err, ErrProtocol) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
	if _, body, err := s.Open(two); err != nil || string(body) != "two" {
		t.Errorf("%q %v", body, err)
	}
	if _, _, err := s.Open(first); !errors.Is(err, ErrProtocol) {
		t.Errorf("the older one after it: %v", err)
	}
}

func TestZ85(t *testing.T) {
	if got := encodeZ85([]byte{0x86, 0x4f, 0xd2, 0x6f, 0xb5, 0x59, 0xf7, 0x5b}); got != "HelloWorld" { // RFC 32
		t.Error(got)
	}
	for _, bad := range []string{"1234", "Hell\"", "%nSc1", "#####", "Helloo", strings.Repeat("0", 35), strings.Repeat("0", 45)} {
		if _, err := ParseKey(bad); fault.KindOf(err) != fault.Invalid || err == nil || strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		k := Key(rapid.SliceOfN(rapid.Byte(), KeySize, KeySize).Draw(t, "key"))
		if again, err := ParseKey(k.Z85()); err != nil || again != k {
			t.Fatalf("%s: %v", k.Z85(), err)
		}
	})
}

func TestKeysAreNotPrinted(t *testing.T) {
	p := pair(t)
	for _, f := range []string{"%v", "%+v", "%#v", "%s"} {
		if s := fmt.Sprintf(f, p); strings.Contains(s, p.Secret.Z85()) || !strings.Contains(s, "[key]") {
			t.Errorf("%s prints %s", f, s)
		}
	}
}

func TestFiles(t *testing.T) {
	p, path := pair(t), filepath.Join(t.TempDir(), "ana.key")
	if err := p.WriteFiles(path); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v %v", info.Mode(), err)
	}
	if got, err := ReadFile(path); err != nil || got != p {
		t.Errorf("the pair came back different: %v", err)
	}
	public := strings.TrimSuffix(path, ".key") + ".pub"
	if got, err := ReadFile(public); err != nil || got.Public != p.Public || !got.Secret.IsZero() {
		t.Errorf("the public key came back different: %v", err)
	}
	if err := pair(t).WriteFiles(path); fault.KindOf(err) != fault.Conflict {
		t.Errorf("writing over it: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := pair(t).WriteFiles(path); fault.KindOf(err) != fault.Conflict {
		t.Errorf("writing over the public one: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a secret key without its public one was left: %v", err)
	}
	if _, err := ReadFile(path + ".none"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("no file: %v", err)
	}
	for name, text := range map[string]string{"empty": "", "bad": "public-key = \"x\"", "secret alone": "secret-key = \"" + p.Secret.Z85() + "\"",
		"of two pairs": "public-key = \"" + pair(t).Public.Z85() + "\"\nsecret-key = \"" + p.Secret.Z85() + "\""} {
		if err := os.WriteFile(path+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadFile(path + name); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	p := pair(f)
	f.Add([]byte("public-key = \"" + p.Public.Z85() + "\"\nsecret-key = \"" + p.Secret.Z85() + "\""))
	f.Add([]byte("=\n\"="))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := parse(b); err == nil && p.Public.IsZero() {
			t.Fatal("no key and no error")
		}
	})
}
