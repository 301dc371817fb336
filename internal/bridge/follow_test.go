package bridge

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"eventspine/internal/event"
	"eventspine/internal/journal"
	"eventspine/internal/socketio"
	"eventspine/internal/socketio/client"
	"eventspine/internal/testkit"
)

// heldBack is a way to a Redis server on which who asks where a partition ends waits until open is
// closed. All else passes.
type heldBack struct {
	url  string
	open chan struct{}
}

func holdHeads(t *testing.T, server *testkit.RedisServer) *heldBack {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &heldBack{url: "redis://" + ln.Addr().String(), open: make(chan struct{})}
	var all sync.WaitGroup
	ended := make(chan struct{})
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() { h.pass(c, server.Addr(), ended) })
		}
	})
	t.Cleanup(func() { close(ended); _ = ln.Close(); all.Wait() })
	return h
}

func (h *heldBack) pass(c net.Conn, addr string, ended <-chan struct{}) {
	s, err := net.Dial("tcp", addr)
	if err != nil {
		_ = c.Close()
		return
	}
	var back sync.WaitGroup
	back.Go(func() { _, _ = io.Copy(c, s); _ = c.Close() })
	defer back.Wait()
	defer func() { _ = s.Close() }()
	for r := bufio.NewReader(c); ; {
		command, held, err := readCommand(r)
		if err != nil {
			return
		}
		if held {
			select {
			case <-h.open:
			case <-ended:
				return
			}
		}
		if _, err := s.Write(command); err != nil {
			return
		}
	}
}

// readCommand reads one command of a client, and reports whether it asks where a partition ends.
func readCommand(r *bufio.Reader) (command []byte, head bool, err error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return nil, false, err
	}
	var n, size int
	if _, err := fmt.Sscanf(string(line), "*%d", &n); err != nil {
		return nil, false, err
	}
	args := make([][]byte, n)
	command = line
	for i := range args {
		if line, err = r.ReadBytes('\n'); err != nil {
			return nil, false, err
		}
		if _, err := fmt.Sscanf(string(line), "$%d", &size); err != nil {
			return nil, false, err
		}
		args[i] = make([]byte, size+2)
		if _, err := io.ReadFull(r, args[i]); err != nil {
			return nil, false, err
		}
		command = append(append(command, line...), args[i]...)
	}
	return command, n > 2 && bytes.EqualFold(args[0], []byte("hmget\r\n")) && bytes.HasSuffix(args[1], []byte(":head\r\n")), nil
}

// TestABridgeThatDoesNotKnowYetWhereItBegins: who read what they missed before that would miss what is
// stored in between and does not come from the proxies. They are asked to come again.
func TestABridgeThatDoesNotKnowYetWhereItBegins(t *testing.T) {
	for _, subscribe := range []string{subscribeAll, subscribeUsers} {
		t.Run(subscribe, func(t *testing.T) {
			server := testkit.StartRedis(t)
			store := storer(t, server.URL())
			held := holdHeads(t, server)
			c := testConfig(held.url)
			c.Subscribe = subscribe
			since := at{User: store("a1").Seq}
			n := startNode(t, c)
			ana := n.dial(t, "ana")
			got, whole := caughtUp(t, ana, since) // and waits for it a moment
			for _, asked := range []socketio.Recovery{{Cursor: fmt.Appendf(nil, `{"user":%d,"all":0}`, since.User)}, {PID: "of nobody"}} {
				r := n.replays.Recover(short(t), "ana", asked)
				if r.Ok || len(r.Events) != 0 || !bytes.Contains(r.Info, []byte(`"retryAfter":`)) || bytes.Contains(r.Info, []byte(`"last":`)) {
					t.Errorf("recovered: %+v %s", r, r.Info)
				}
			}
			store("a2") // and the proxies lose it
			close(held.open)
			n.awaitReady(t)
			if !whole {
				again, ok := caughtUp(t, ana, since)
				got, whole = append(got, again...), ok
			}
			live := store("a3")
			if n.publish(t, live.Raw); subscribe == subscribeUsers {
				n.publishAs(t, event.TopicTo+"ana", live.Raw)
			}
			wantEvent(t, ana, "status", live.Raw)
			if ids := idsOf(t, got); ids != "a2" || !whole {
				t.Errorf("before that it got %q, and all: %v", ids, whole)
			}
		})
	}
}

// caughtUp asks for what was missed, and reports whether it was answered.
func caughtUp(t *testing.T, c *client.Client, since at) (events []json.RawMessage, ok bool) {
	t.Helper()
	events, info, err := c.SyncSince(short(t), since)
	if err != nil {
		t.Fatal(err)
	}
	return events, info.Error == "" && info.Complete
}

// storer stores events of one user past the bridge.
func storer(t *testing.T, url string) func(id string) journal.Stored {
	t.Helper()
	j := openJournal(t, url)
	return func(id string) journal.Stored {
		t.Helper()
		raw := fmt.Appendf(nil, `{"id":%q,"type":"status","userId":"ana","timestamp":%d}`, id, noon)
		got, err := j.Append(short(t), []journal.Entry{{Event: event.Event{ID: id, UserID: "ana", Raw: raw}, Deliverable: true}})
		if err != nil {
			t.Fatal(err)
		}
		return got[0]
	}
}
