package mdp

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"eventspine/internal/fault"
	"eventspine/internal/testkit/allocs"
	"eventspine/internal/zmq"
)

func TestWhatABrokerReads(t *testing.T) {
	for _, c := range []struct {
		text string
		want error
	}{
		{"a||MDPC01|echo|x", nil},
		{"a||MDPC01|echo||", nil},
		{"a||MDPC01|two words|x", nil},
		{"a||MDPC01|größe|x", nil},
		{"a||MDPC01|echo", errFrames},
		{"a||MDPC01||x", errService},
		{"a||MDPC01|tab\there|x", errService},
		{"a||MDPC01|" + strings.Repeat("s", 255) + "|x", nil},
		{"a||MDPC01|" + strings.Repeat("s", 256) + "|x", errService},
		{"a||MDPC01|\xff|x", errService},
		{"a||MDPC02|echo|x", errHeader},
		{"a|x|MDPC01|echo|x", errHeader},
		{"a|", errHeader},
		{"a", errHeader},
		{"a||MDPW01|READY|echo", nil},
		{"a||MDPW01|READY", errFrames},
		{"a||MDPW01|READY|echo|more", errFrames},
		{"a||MDPW01|READY|", errService},
		{"a||MDPW01|REPLY|c||x", nil},
		{"a||MDPW01|REPLY|c||x|y", nil},
		{"a||MDPW01|REPLY|c||", nil},
		{"a||MDPW01|REPLY|c|", errFrames},
		{"a||MDPW01|REPLY|c|d|x", errFrames},
		{"a||MDPW01|REPLY|||x", errFrames},
		{"a||MDPW01|HEARTBEAT", nil},
		{"a||MDPW01|HEARTBEAT|x", errFrames},
		{"a||MDPW01|DISCONNECT", nil},
		{"a||MDPW01|DISCONNECT|", errFrames},
		{"a||MDPW01|REQUEST|c||x", errCommand},
		{"a||MDPW01|\x06", errCommand},
		{"a||MDPW01|", errCommand},
		{"a||MDPW01|long", errCommand},
		{"a||MDPW01", errCommand},
	} {
		if _, err := readPeer(msg(c.text)); !errors.Is(err, c.want) || err != nil && c.want == nil {
			t.Errorf("%q gives %v, want %v", c.text, err, c.want)
		}
	}
	if _, err := readPeer(nil); err == nil {
		t.Error("no frames are a message")
	}
}

func TestWhatAWorkerReads(t *testing.T) {
	for _, c := range []struct {
		text string
		want error
	}{
		{"|MDPW01|REQUEST|c||x", nil},
		{"|MDPW01|REQUEST|c||x|y", nil},
		{"|MDPW01|REQUEST|c|", errFrames},
		{"|MDPW01|REQUEST|||x", errFrames},
		{"|MDPW01|REQUEST|c|d|x", errFrames},
		{"|MDPW01|HEARTBEAT", nil},
		{"|MDPW01|HEARTBEAT|x", errFrames},
		{"|MDPW01|DISCONNECT", nil},
		{"|MDPW01|READY|s", errCommand},
		{"|MDPW01|REPLY|c||x", errCommand},
		{"|MDPW01", errCommand},
		{"|MDPC01|REQUEST", errHeader},
		{"x|MDPW01|HEARTBEAT", errHeader},
		{"", errHeader},
	} {
		if _, err := readOrder(msg(c.text)); !errors.Is(err, c.want) || err != nil && c.want == nil {
			t.Errorf("%q gives %v, want %v", c.text, err, c.want)
		}
	}
}

func TestWhatAClientReads(t *testing.T) {
	for _, c := range []struct {
		text string
		want error
	}{
		{"MDPC01|s|x", nil},
		{"MDPC01|s|", nil},
		{"MDPC01|s", errFrames},
		{"MDPC01|other|x", errService},
		{"MDPW01|s|x", errHeader},
	} {
		if _, err := readAnswer(msg(c.text), "s"); !errors.Is(err, c.want) || err != nil && c.want == nil {
			t.Errorf("%q gives %v, want %v", c.text, err, c.want)
		}
	}
}

// Each side reads what the other writes.
func TestBothSidesAgree(t *testing.T) {
	body := msg("one|two")
	q, err := question("s", body)
	if err != nil {
		t.Fatal(err)
	}
	p, err := readPeer(append(msg("c1|"), q...)) // what REQ and ROUTER add
	if err != nil || p.worker || p.service != "s" || show(p.body) != "one|two" || p.from != "c1" {
		t.Errorf("%+v, %v", p, err)
	}
	o, err := readOrder(toWorker("w1", request, append(zmq.Msg{[]byte("c1"), nil}, body...)...)[1:])
	if err != nil || string(o.client) != "c1" || show(o.body) != "one|two" {
		t.Errorf("%+v, %v", o, err)
	}
	p, err = readPeer(append(msg("w1"), toBroker(reply, append(zmq.Msg{o.client, nil}, body...)...)...))
	if err != nil || !p.worker || p.client != "c1" || show(p.body) != "one|two" {
		t.Errorf("%+v, %v", p, err)
	}
	answer, err := readAnswer(toClient("c1", "s", body)[2:], "s")
	if err != nil || show(answer) != "one|two" {
		t.Errorf("%q, %v", answer, err)
	}
	if _, err := question("", nil); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a service without a name gives %v", err)
	}
}

// cut makes frames of fuzzed bytes: each begins with its length.
func cut(b []byte) (m zmq.Msg) {
	for len(b) > 0 {
		n := min(int(b[0]), len(b)-1)
		m = append(m, b[1:1+n])
		b = b[1+n:]
	}
	return m
}

func pack(texts ...string) []byte {
	var b []byte
	for _, s := range texts {
		for _, f := range msg(s) {
			b = append(append(b, byte(len(f))), f...)
		}
	}
	return b
}

// Whatever comes, the readers do not panic and take no more memory than came, and what they
// accept has the parts they promise and is written again as it was read.
func FuzzFrames(f *testing.F) {
	for _, s := range []string{"a||MDPC01|echo|x", "a||MDPW01|READY|echo", "a||MDPW01|REPLY|c||x", "a||MDPW01|HEARTBEAT",
		"|MDPW01|REQUEST|c||x", "|MDPW01|DISCONNECT", "MDPC01|s|x"} {
		f.Add(pack(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := cut(b)
		allocs.AtMost(t, len(b)+allocs.Slack, func() {
			_, _ = readPeer(m)
			_, _ = readOrder(m)
			_, _ = readAnswer(m, "s")
		})
		if p, err := readPeer(m); err == nil {
			checkPacket(t, m, p)
		}
		if o, err := readOrder(m); err == nil {
			checkOrder(t, m, o)
		}
		if body, err := readAnswer(m, "s"); err == nil && (len(body) == 0 || !sameFrames(toClient("c", "s", body)[2:], m)) {
			t.Errorf("accepted answer %q", m)
		}
	})
}

func checkPacket(t *testing.T, m zmq.Msg, p packet) {
	t.Helper()
	var again zmq.Msg
	switch {
	case !p.worker:
		q, err := question(p.service, p.body)
		if err != nil || len(p.body) == 0 {
			t.Fatalf("accepted request %+v", p)
		}
		again = append(zmq.Msg{[]byte(p.from), nil}, q...) // what REQ and ROUTER add
	case p.command == ready:
		again = append(zmq.Msg{[]byte(p.from)}, toBroker(ready, []byte(p.service))...)
	case p.command == reply:
		if p.client == "" || len(p.body) == 0 {
			t.Fatalf("accepted reply %+v", p)
		}
		again = append(zmq.Msg{[]byte(p.from)}, toBroker(reply, append(zmq.Msg{[]byte(p.client), nil}, p.body...)...)...)
	default:
		again = append(zmq.Msg{[]byte(p.from)}, toBroker(p.command)...)
	}
	if !sameFrames(again, m) {
		t.Fatalf("%q came back as %q", m, again)
	}
}

func checkOrder(t *testing.T, m zmq.Msg, o order) {
	t.Helper()
	again := toWorker("w", o.command)
	if o.command == request {
		if len(o.client) == 0 || len(o.body) == 0 {
			t.Fatalf("accepted order %+v", o)
		}
		again = toWorker("w", request, append(zmq.Msg{o.client, nil}, o.body...)...)
	}
	if !sameFrames(again[1:], m) {
		t.Fatalf("%q came back as %q", m, again)
	}
}

func sameFrames(a, b zmq.Msg) bool {
	return slices.EqualFunc(a, b, bytes.Equal)
}
