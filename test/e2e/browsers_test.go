package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"eventspine/internal/socketio/client"
	"eventspine/test/harness"
)

// seen is what a browser saw of one event.
type seen struct {
	Name   string // the Socket.IO event name
	ID     string `json:"id"`
	Type   string `json:"type"`
	UserID string `json:"userId"`
	Seq    uint64 `json:"seq"`
	Raw    json.RawMessage
}

func look(name string, raw []byte) seen {
	s := seen{Name: name, Raw: append(json.RawMessage(nil), raw...)}
	if err := json.Unmarshal(raw, &s); err != nil {
		s.ID = "not JSON: " + err.Error()
	}
	return s
}

// browser is one connection of one user.
type browser interface {
	// events are the live ones so far, in the order they came.
	events() []seen
	// sync asks for what came after the number last, and whether that is all of it.
	sync(t *testing.T, last uint64) ([]seen, bool)
	drop()
}

// browsers connects clients of one kind.
type browsers interface {
	connect(t *testing.T, url, token string) browser
}

const answerLimit = 10 * time.Second

// goBrowsers are connections of the project's own Go client: nothing but Go is needed.
type goBrowsers struct{}

type goBrowser struct {
	c    *client.Client
	done chan struct{}
	mu   sync.Mutex
	got  []seen
}

func (goBrowsers) connect(t *testing.T, url, token string) browser {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), answerLimit)
	defer cancel()
	c, err := client.Dial(ctx, url, token, client.Options{})
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	b := &goBrowser{c: c, done: make(chan struct{})}
	go b.read()
	t.Cleanup(b.drop)
	return b
}

func (b *goBrowser) read() {
	defer close(b.done)
	for {
		name, payload, err := b.c.Recv(context.Background())
		if err != nil {
			return
		}
		b.mu.Lock()
		b.got = append(b.got, look(name, payload))
		b.mu.Unlock()
	}
}

func (b *goBrowser) events() []seen {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]seen(nil), b.got...)
}

func (b *goBrowser) sync(t *testing.T, last uint64) ([]seen, bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), answerLimit)
	defer cancel()
	events, complete, err := b.c.Sync(ctx, last)
	if err != nil {
		t.Fatalf("sync: %v", err)
	}
	var out []seen
	for _, e := range events {
		out = append(out, look("", e))
	}
	return out, complete
}

func (b *goBrowser) drop() {
	_ = b.c.Close()
	<-b.done
}

// nodeBrowsers are connections of a real socket.io-client, all in one Node process.
type nodeBrowsers struct {
	mu    sync.Mutex
	stdin io.Writer
	by    map[string]*nodeBrowser
	n     int
}

type nodeBrowser struct {
	all       *nodeBrowsers
	name      string
	got       []seen      // under all.mu
	connected chan string // "" or why not
	synced    chan answer
}

type answer struct {
	Events []json.RawMessage `json:"events"`
	Info   struct {
		Complete bool `json:"complete"`
	} `json:"info"`
}

// startNode starts the browsers with the client installed under the alias dir, such as sio2.
func startNode(t *testing.T, alias string) *nodeBrowsers {
	t.Helper()
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	modules := filepath.Join(root, "test", "socketio", "node_modules", alias)
	if _, err := os.Stat(modules); err != nil {
		install := exec.Command("npm", "ci", "--no-audit", "--no-fund")
		install.Dir = filepath.Join(root, "test", "socketio")
		if out, err := install.CombinedOutput(); err != nil {
			t.Fatalf("npm ci: %v\n%s", err, out)
		}
	}
	cmd := exec.Command("node", "browsers.js", modules)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := &nodeBrowsers{stdin: stdin, by: map[string]*nodeBrowser{}}
	read := make(chan struct{})
	go func() {
		defer close(read)
		b.read(stdout)
	}()
	t.Cleanup(func() {
		_ = stdin.Close()
		<-read
		_ = cmd.Wait()
	})
	return b
}

func (b *nodeBrowsers) read(r io.Reader) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var m struct {
			As, What, Name, Reason string
			Event                  json.RawMessage
			answer
		}
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			continue
		}
		b.mu.Lock()
		c := b.by[m.As]
		if m.What == "event" {
			c.got = append(c.got, look(m.Name, m.Event))
		}
		b.mu.Unlock()
		switch m.What {
		case "connected":
			c.connected <- ""
		case "error":
			c.connected <- m.Reason
		case "synced":
			c.synced <- m.answer
		}
	}
}

func (b *nodeBrowsers) do(command map[string]any) {
	line, err := json.Marshal(command)
	if err != nil {
		panic(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	_, _ = b.stdin.Write(append(line, '\n'))
}

func (b *nodeBrowsers) connect(t *testing.T, url, token string) browser {
	t.Helper()
	b.mu.Lock()
	b.n++
	c := &nodeBrowser{all: b, name: fmt.Sprintf("c%d", b.n), connected: make(chan string, 16), synced: make(chan answer, 1)}
	b.by[c.name] = c
	b.mu.Unlock()
	b.do(map[string]any{"do": "connect", "as": c.name, "url": url, "token": token, "transports": []string{"websocket"}})
	select {
	case why := <-c.connected:
		if why != "" {
			t.Fatalf("connect: %s", why)
		}
	case <-time.After(answerLimit):
		t.Fatal("connect: no answer")
	}
	return c
}

func (c *nodeBrowser) events() []seen {
	c.all.mu.Lock()
	defer c.all.mu.Unlock()
	return append([]seen(nil), c.got...)
}

func (c *nodeBrowser) sync(t *testing.T, last uint64) ([]seen, bool) {
	t.Helper()
	c.all.do(map[string]any{"do": "sync", "as": c.name, "last": last})
	select {
	case a := <-c.synced:
		var out []seen
		for _, e := range a.Events {
			out = append(out, look("", e))
		}
		return out, a.Info.Complete
	case <-time.After(answerLimit):
		t.Fatal("sync: no answer")
		return nil, false
	}
}

func (c *nodeBrowser) drop() { c.all.do(map[string]any{"do": "drop", "as": c.name}) }
