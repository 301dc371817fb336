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

const here, there = "10.0.1.1", "10.0.1.10"

// TestEcho is what runs in a machine: it answers what it is sent, at the address it is told.
func TestEcho(t *testing.T) {
	at := os.Getenv("NETNS_ECHO")
	if at == "" {
		t.Skip("only other tests use this")
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", at)
	must(t, err)
	for {
		c, err := l.Accept()
		must(t, err)
		go func() {
			defer func() { _ = c.Close() }()
			_, _ = io.Copy(c, c)
		}()
	}
}

// network is a Net with one more machine, in which a server of the port answers what it is sent.
func network(t *testing.T, ports ...string) *Net {
	t.Helper()
	n, err := NewNet(t.Context(), here)
	if fault.KindOf(err) == fault.Unavailable {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() { must(t, n.Close()) })
	m, err := n.Machine(t.Context(), there)
	must(t, err)
	for _, p := range ports {
		cmd := exec.Command(os.Args[0], "-test.run=^TestEcho$")
		cmd.Env = append(os.Environ(), "NETNS_ECHO="+net.JoinHostPort(there, p))
		must(t, m.Start(cmd))
		t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	}
	return n
}

// dial connects to the port of the other machine.
func dial(t *testing.T, port string) net.Conn {
	t.Helper()
	for until := time.Now().Add(late); ; time.Sleep(10 * time.Millisecond) {
		c, err := (&net.Dialer{Timeout: late}).DialContext(t.Context(), "tcp", net.JoinHostPort(there, port))
		if err == nil {
			t.Cleanup(func() { _ = c.Close() })
			return c
		}
		if time.Now().After(until) {
			t.Fatal(err)
		}
	}
}

// best is the shortest of ten echoes.
func best(t *testing.T, c net.Conn) time.Duration {
	t.Helper()
	least := late
	for range 10 {
		least = min(least, echo(t, c))
	}
	return least
}

// echo is how long a byte takes there and back.
func echo(t *testing.T, c net.Conn) time.Duration {
	t.Helper()
	began := time.Now()
	if !carries(t, c, c, late) {
		t.Fatal("no answer")
	}
	return time.Since(began)
}

func TestMachinesHaveAddresses(t *testing.T) {
	if !Rerun(t) {
		return
	}
	n := network(t, "7001")
	c := dial(t, "7001")
	if got := c.LocalAddr().(*net.TCPAddr).IP.String(); got != here {
		t.Errorf("this end is %s, want %s", got, here)
	}
	echo(t, c)
	other, err := n.Machine(t.Context(), "10.0.1.20")
	must(t, err)
	out := &strings.Builder{}
	cmd := exec.Command("ip", "-4", "-o", "address", "show", "scope", "global")
	cmd.Stdout = out
	must(t, other.Start(cmd))
	must(t, cmd.Wait())
	if got := out.String(); !strings.Contains(got, "10.0.1.20/24") || strings.Contains(got, there) || strings.Contains(got, here+"/") {
		t.Errorf("a machine has the addresses\n%s", got)
	}
	for _, host := range []string{there, "::1", "machine"} {
		if _, err := n.Machine(t.Context(), host); fault.KindOf(err) != fault.Invalid {
			t.Errorf("a machine with %s: %v", host, err)
		}
	}
	if l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", there+":0"); err == nil {
		t.Errorf("this process listens at another machine's address: %v", l.Close())
	}
}

func TestPacketsVanishBetweenMachines(t *testing.T) {
	if !Rerun(t) {
		return
	}
	n := network(t, "7001", "7002")
	one, two := dial(t, "7001"), dial(t, "7002")
	must(t, n.Harm("hole", Harm{Lose: 100}, Match{Port: 7001}))
	if carries(t, one, one, soon) {
		t.Error("what vanishes is answered")
	}
	echo(t, two)
	if n.Lost() == 0 {
		t.Error("nothing counts as lost")
	}
	n.Heal("hole")
	if !arrives(one, late) {
		t.Error("what vanished is not sent again")
	}
	must(t, n.Harm("apart", Harm{Lose: 100}, Match{Host: there}))
	if carries(t, one, one, soon) || carries(t, two, two, soon) {
		t.Error("a machine answers that is apart")
	}
	must(t, n.Harm("apart", Harm{Lose: 100}, Match{Host: "10.0.1.99"}))
	if !arrives(one, late) || !arrives(two, late) {
		t.Error("harm to another machine stays")
	}
	n.Heal("apart")
	must(t, n.Harm("lossy", Harm{Lose: 20}))
	before := n.Lost()
	for range 40 {
		echo(t, one)
	}
	if n.Lost() == before {
		t.Error("of a fifth nothing is lost")
	}
	for _, h := range []Harm{{Lose: 101}, {Lose: -1}, {Jitter: 1}, {Rate: -1}, {Late: -1}} {
		if err := n.Harm("x", h); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%+v: %v", h, err)
		}
	}
	if err := n.Harm("x", Harm{}, Match{Host: "machine"}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("harm to an address that is none: %v", err)
	}
}

func TestPacketsAreLate(t *testing.T) {
	if !Rerun(t) {
		return
	}
	const delay, jitter = 60 * time.Millisecond, 20 * time.Millisecond
	n := network(t, "7001", "7002")
	one, two := dial(t, "7001"), dial(t, "7002")
	must(t, n.Harm("late", Harm{Late: delay, Jitter: jitter}, Match{Port: 7001}))
	if took := best(t, one); took < 2*(delay-jitter) {
		t.Errorf("there and back takes %s, want at least %s", took, 2*(delay-jitter))
	}
	if took := best(t, two); took >= delay {
		t.Errorf("another port takes %s", took)
	}
	n.Heal("late")
	if took := best(t, one); took >= delay {
		t.Errorf("it takes %s after all is healed", took)
	}
}

func TestANetworkIsNarrow(t *testing.T) {
	if !Rerun(t) {
		return
	}
	const rate, size = 2 << 20, 1 << 20
	n := network(t, "7001")
	c := dial(t, "7001")
	send := func() time.Duration {
		began := time.Now()
		go func() { _, _ = c.Write(make([]byte, size)) }()
		_ = c.SetReadDeadline(time.Now().Add(late))
		if _, err := io.ReadFull(c, make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		return time.Since(began)
	}
	wide := send()
	must(t, n.Harm("narrow", Harm{Rate: rate}))
	// There and back make twice the size; a fifth of a second of it waits in the queue without harm.
	if narrow, least := send(), 2*size*time.Second/rate-2*patience; narrow < least {
		t.Errorf("1 MiB there and back takes %s, want at least %s (without a limit %s)", narrow, least, wide)
	}
}

func TestNoNetOutside(t *testing.T) {
	if _, err := NewNet(context.Background(), here); fault.KindOf(err) != fault.Forbidden {
		t.Errorf("a network in the namespace of the machine: %v", err)
	}
}
