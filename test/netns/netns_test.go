package netns

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"eventspine/internal/fault"
)

// pair is a TCP connection within the namespace: its two ends.
func pair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	if client, err = new(net.Dialer).DialContext(t.Context(), "tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = client.Close(), server.Close() })
	return client, server
}

func portOf(c net.Conn) int { return c.LocalAddr().(*net.TCPAddr).Port }

// carries reports whether a byte from one end comes to the other within the time.
func carries(t *testing.T, from, to net.Conn, within time.Duration) bool {
	t.Helper()
	if _, err := from.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	return arrives(to, within)
}

func arrives(to net.Conn, within time.Duration) bool {
	_ = to.SetReadDeadline(time.Now().Add(within))
	_, err := io.ReadFull(to, make([]byte, 1))
	return err == nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const (
	soon = 300 * time.Millisecond
	late = 20 * time.Second // TCP has waited longer each time before it sends again
)

func TestAConnectionVanishesAndComesBack(t *testing.T) {
	if !Rerun(t) {
		return
	}
	client, server := pair(t)
	otherClient, otherServer := pair(t)
	var rules Rules
	must(t, rules.Heal(t.Context())) // of nothing
	if !carries(t, client, server, late) || !carries(t, server, client, late) {
		t.Fatal("the connection does not work to begin with")
	}
	must(t, rules.Drop(t.Context(), Ports(portOf(client))...))
	if carries(t, client, server, soon) || carries(t, server, client, soon) {
		t.Error("what is dropped arrives")
	}
	if !carries(t, otherClient, otherServer, late) {
		t.Error("another connection is dropped too")
	}
	if n, err := rules.Dropped(t.Context()); err != nil || n < 2 {
		t.Errorf("%d packets were dropped, %v", n, err)
	}
	must(t, rules.Heal(t.Context()))
	if !arrives(server, late) || !arrives(client, late) {
		t.Error("what was dropped is not sent again")
	}
	if n, err := rules.Dropped(t.Context()); err != nil || n != 0 {
		t.Errorf("%d packets count as dropped after all was healed, %v", n, err)
	}
}

func TestSomePacketsAreLost(t *testing.T) {
	if !Rerun(t) {
		return
	}
	client, server := pair(t)
	some, all := Rules{Name: "some"}, Rules{Name: "all"}
	must(t, some.Lose(t.Context(), 50, Ports(portOf(client))...))
	for i := 0; ; i++ {
		if !carries(t, client, server, late) {
			t.Fatal("half of the packets, and a byte never arrives")
		}
		if n, err := some.Dropped(t.Context()); err != nil || n > 0 {
			must(t, err)
			t.Logf("after %d bytes %d packets are lost", i+1, n)
			break
		}
		if i == 200 {
			t.Fatal("no packet of 200 is lost")
		}
	}
	must(t, all.Drop(t.Context())) // whatever it is
	must(t, some.Heal(t.Context()))
	if carries(t, client, server, soon) {
		t.Error("rules of one name healed those of another")
	}
	must(t, all.Heal(t.Context()))
	if !arrives(server, late) {
		t.Error("what was dropped is not sent again")
	}
	must(t, all.Drop(t.Context(), Hosts("127.0.0.2")...))
	must(t, some.Lose(t.Context(), 0))
	if !carries(t, client, server, late) {
		t.Error("nothing in a hundred is something")
	}
	must(t, all.Drop(t.Context(), Hosts("127.0.0.2", "127.0.0.1")...))
	if carries(t, client, server, soon) {
		t.Error("what a host sends that is gone arrives")
	}
	must(t, all.Heal(t.Context()))
	if !arrives(server, late) {
		t.Error("what was dropped is not sent again")
	}
	must(t, some.Lose(t.Context(), 100))
	if carries(t, client, server, soon) {
		t.Error("a hundred in a hundred is not all")
	}
	for _, err := range []error{some.Lose(t.Context(), 101), some.Drop(t.Context(), "tcp sport many"), (&Rules{Name: "two words"}).Drop(t.Context())} {
		if fault.KindOf(err) != fault.Invalid {
			t.Errorf("a rule that makes no sense: %v", err)
		}
	}
}

func TestOutsideNothingIsDropped(t *testing.T) {
	var rules Rules
	_, counted := rules.Dropped(t.Context())
	for _, err := range []error{rules.Drop(t.Context()), rules.Lose(t.Context(), 1), rules.Heal(t.Context()), counted} {
		if fault.KindOf(err) != fault.Forbidden {
			t.Errorf("outside of a namespace: %v", err)
		}
	}
	here, err := os.Readlink(self)
	if err != nil {
		t.Skip("no network namespaces here: ", err)
	}
	t.Setenv(marker, here)
	if err := rules.Drop(t.Context()); fault.KindOf(err) != fault.Forbidden {
		t.Errorf("in the namespace of the parent: %v", err)
	}
}

// TestOutcome does in the namespace what it is told, by other tests of this file.
func TestOutcome(t *testing.T) {
	what := os.Getenv("NETNS_OUTCOME")
	if what == "" {
		t.Skip("only other tests use this")
	}
	t.Run("of (a) part", func(t *testing.T) {
		if !Rerun(t) {
			return
		}
		switch what {
		case "fail":
			t.Error("as it was told")
		case "skip":
			t.Skip("as it was told")
		case "exit":
			os.Exit(0)
		}
	})
}

func TestTheOutcomeIsTheChilds(t *testing.T) {
	if err := Available(t.Context()); err != nil {
		if os.Getenv("EVENTSPINE_REQUIRE_SERVERS") != "" && fault.KindOf(err) == fault.NotFound {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	for _, tt := range []struct {
		what, say string
		fails     bool
	}{
		{"pass", "--- PASS: TestOutcome/of_(a)_part", false},
		{"skip", "--- SKIP: TestOutcome/of_(a)_part", false},
		{"fail", "as it was told", true},
		{"exit", "the test did not run", true},
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOutcome$", "-test.v")
		cmd.Env = append(os.Environ(), "NETNS_OUTCOME="+tt.what)
		out, err := cmd.CombinedOutput()
		if (err != nil) != tt.fails || !strings.Contains(string(out), tt.say) {
			t.Errorf("%s: %v\n%s", tt.what, err, out)
		}
	}
}

func TestAMissingProgramIsNamed(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if err := Available(context.Background()); fault.KindOf(err) != fault.NotFound || !strings.Contains(err.Error(), "ip") {
		t.Errorf("without ip and nft: %v", err)
	}
}
