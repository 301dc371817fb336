package zmq

import (
	"context"
	"errors"
	"testing"
	"time"

	"eventspine/internal/fault"
)

func TestReqRep(t *testing.T) {
	rep, ep := bound(t, Rep, Options{})
	req := connected(t, Req, Options{}, ep)
	for range 3 {
		send(t, req, "PING", "")
		expect(t, rep, "PING", "")
		send(t, rep, "PONG")
		expect(t, req, "PONG")
	}
}

func TestLockStep(t *testing.T) {
	rep, ep := bound(t, Rep, Options{})
	req := connected(t, Req, Options{}, ep)
	out := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, ErrState) || fault.KindOf(err) != fault.Conflict {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := req.Recv(t.Context())
	out("REQ receives first", err)
	out("REP sends first", rep.TrySend(msg("x")))
	send(t, req, "one")
	out("REQ sends twice", req.TrySend(msg("two")))
	expect(t, rep, "one")
	_, err = rep.Recv(t.Context())
	out("REP receives twice", err)
	send(t, rep, "answer")
	out("REP sends twice", rep.TrySend(msg("x")))
	expect(t, req, "answer")
	_, err = req.Recv(t.Context())
	out("REQ receives twice", err)
}

func TestRepAnswersWhoeverAsked(t *testing.T) {
	rep, ep := bound(t, Rep, Options{})
	one, two := connected(t, Req, Options{}, ep), connected(t, Req, Options{}, ep)
	for range 5 {
		send(t, one, "1")
		send(t, two, "2")
		for range 2 {
			send(t, rep, "for "+string(recv(t, rep)[0]))
		}
		expect(t, two, "for 2")
		expect(t, one, "for 1")
	}
}

// A request that was given up leaves nothing behind: the next one gets its own answer.
func TestReqAfterATimeout(t *testing.T) {
	rep, ep := bound(t, Rep, Options{})
	req := connected(t, Req, Options{ReconnectMin: time.Minute}, ep)
	send(t, req, "first")
	expect(t, rep, "first")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := req.Recv(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	eventually(t, "the end of the connection", func() bool { return rep.Stats().Disconnects == 1 })
	send(t, rep, "late answer")
	send(t, req, "second") // over a new connection, at once
	expect(t, rep, "second")
	send(t, rep, "right answer")
	expect(t, req, "right answer")
	if d := rep.Stats().Dropped; d != 1 {
		t.Errorf("%d answers dropped, want the late one", d)
	}
}

func TestReqOutlivesItsPeer(t *testing.T) {
	rep, ep := bound(t, Rep, Options{})
	req := connected(t, Req, Options{}, ep)
	send(t, req, "first")
	expect(t, rep, "first")
	if err := rep.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := req.Recv(t.Context()); fault.KindOf(err) != fault.Unavailable {
		t.Fatalf("answer of a dead peer: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := req.Send(ctx, msg("nobody there")); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	again := open(t, Rep, Options{})
	rebind(t, again, ep)
	send(t, req, "second")
	expect(t, again, "second")
	send(t, again, "answer")
	expect(t, req, "answer")
}
