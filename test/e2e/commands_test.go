package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"eventspine/test/harness"
)

// command is the operator's command, pointed at the test system.
func command(ctx context.Context, s *harness.System, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, filepath.Join(bin, "eventspine"), args...)
	c.Env = append(os.Environ(), "JWT_SECRET="+harness.Secret, "EVENTSPINE_API="+s.APIURL, "EVENTSPINE_BRIDGE="+s.BridgeURL, "ZMQ_PROXY_XPUB="+s.XPub[0])
	return c
}

// TestOrder posts the article's example order: its user gets a notification made by a rule.
func TestOrder(t *testing.T) {
	s := start(t, embedded, 1)
	ana := goBrowsers{}.connect(t, s.BridgeURL, harness.Token("ana"))
	order := `{"amount":99.8,"items":[{"sku":"book-1","quantity":2}]}`
	status, body := post(t, s.APIURL+"/api/orders", harness.Token("ana"), "application/json", []byte(order))
	if status != http.StatusAccepted {
		t.Fatalf("POST: %d %s", status, body)
	}
	eventually(t, 5*time.Second, func() bool { return len(ana.events()) == 1 }, func() string { return fmt.Sprint(ana.events()) })
	if got := ana.events()[0]; got.Name != "notification" || got.Type != "notification.order" || got.UserID != "ana" {
		t.Errorf("got %s %s", got.Name, got.Raw)
	}
}

// TestCloudEvent posts a CloudEvent: its subject is the user.
func TestCloudEvent(t *testing.T) {
	s := start(t, embedded, 1)
	ana := goBrowsers{}.connect(t, s.BridgeURL, harness.Token("ana"))
	event := `{"specversion":"1.0","id":"ce-1","source":"/shop","type":"alert.stock","subject":"ana","time":"2026-01-02T03:04:05.678Z","data":{"left":3}}`
	status, body := post(t, s.APIURL+"/api/events", harness.Token("shop", "emit"), "application/cloudevents+json", []byte(event))
	if status != http.StatusAccepted {
		t.Fatalf("POST: %d %s", status, body)
	}
	eventually(t, 5*time.Second, func() bool { return len(ana.events()) == 1 }, func() string { return "nothing came" })
	var got struct {
		Timestamp int64
		Data      struct{ Left int }
	}
	if err := json.Unmarshal(ana.events()[0].Raw, &got); err != nil || got.Data.Left != 3 || got.Timestamp != 1767323045678 {
		t.Errorf("got %s, %v", ana.events()[0].Raw, err)
	}
}

// TestEmitAndTail sends the real input with `eventspine emit` while two `eventspine tail` follow,
// one over ZeroMQ and one over Socket.IO.
func TestEmitAndTail(t *testing.T) {
	s := start(t, embedded, 1)
	events := webhooks(t, "")
	busiest := busiestUser(events)
	mine, everybody := own(events, busiest)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	all := follow(t, command(ctx, s, "tail", "--all", "--count", fmt.Sprint(len(events))))
	user := follow(t, command(ctx, s, "tail", "--user", busiest, "--count", fmt.Sprint(len(mine)+len(everybody))))

	out, err := command(ctx, s, "emit", "--file", "../../testdata/github-webhooks.ndjson", "--rate", "2000").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "329 accepted, 0 refused") {
		t.Fatalf("emit: %v\n%s", err, out)
	}
	if got := all(); len(got) != len(events) {
		t.Errorf("tail --all printed %d of %d events", len(got), len(events))
	}
	var ids []string
	for _, line := range user() {
		if e := look("", line); e.UserID == busiest {
			ids = append(ids, e.ID)
		}
	}
	if strings.Join(ids, " ") != strings.Join(mine, " ") {
		t.Errorf("tail --user printed %d events of the user, want %d in order", len(ids), len(mine))
	}
}

// follow starts a tail, waits until it follows, and returns a function that waits for its end
// and gives the lines it printed.
func follow(t *testing.T, c *exec.Cmd) func() [][]byte {
	t.Helper()
	var out bytes.Buffer
	c.Stdout = &out
	notes, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	scan := bufio.NewScanner(notes)
	if !scan.Scan() || !strings.HasPrefix(scan.Text(), "following") {
		t.Fatalf("tail says %q", scan.Text())
	}
	return func() [][]byte {
		if err := c.Wait(); err != nil {
			t.Errorf("tail: %v", err)
		}
		return bytes.Split(bytes.TrimSpace(out.Bytes()), []byte("\n"))
	}
}
