package replay

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/socketio"
	"eventspine/internal/socketio/hub"
)

// back is a client that comes back, and what it is told.
func back(t testing.TB, r *Replayer, user string, asked socketio.Recovery) (ids string, in Info, got socketio.Recovered) {
	t.Helper()
	got = r.Recover(t.Context(), user, asked)
	names := make([]string, len(got.Events))
	for i, e := range got.Events {
		var body struct{ ID string }
		if err := json.Unmarshal(e.Payload, &body); err != nil {
			t.Fatal(err)
		}
		names[i] = body.ID
	}
	if got.Info != nil {
		if err := json.Unmarshal(got.Info, &in); err != nil {
			t.Fatal(err)
		}
	}
	if got.PID == "" {
		t.Error("there is no pid")
	}
	return strings.Join(names, " "), in, got
}

func offsetOf(at hub.Position) string { return string(at.AppendOffset(nil)) }

// newcomers connect before the events of twoSets.
func newcomer(t *testing.T, user string) (pid string) {
	t.Helper()
	j := &fakeJournal{epoch: 1, sets: map[string][][]byte{user: {stored(user, "status", 1000, noon)}, "*": {stored("*", "alert", 10, noon)}}}
	got := newReplayer(j).Recover(t.Context(), user, socketio.Recovery{})
	if got.Ok || got.Info != nil || len(got.Events) != 0 || got.PID == "" {
		t.Fatalf("a new session: %+v", got)
	}
	return got.PID
}

func TestASessionThatNeverGotAnEventIsRecovered(t *testing.T) {
	pid := newcomer(t, "ana")
	ids, in, got := back(t, newReplayer(twoSets()), "ana", socketio.Recovery{PID: pid})
	if ids != "ana-1001 *-11 ana-1002 *-12 ana-1005" || !got.Ok || got.PID != pid || !in.Complete || in.More {
		t.Errorf("%s %+v ok %v", ids, in, got.Ok)
	}
	if name := got.Events[1].Name; name != "alert" || offsetOf(got.At) != "1005.12" {
		t.Errorf("the second is %s, synced is at %s", name, offsetOf(got.At))
	}
}

func TestRecoverSinceAnOffset(t *testing.T) {
	pid := newcomer(t, "ana")
	for offset, want := range map[string]string{
		"1002.11":          "*-12 ana-1005",
		"1005.12":          "",
		"1002.":            "*-11 *-12 ana-1005",                   // of the broadcasts only the beginning is known
		".12":              "ana-1005",                             // by time
		"1002":             "*-12 ana-1005",                        // likewise
		"999.9":            "ana-1001 *-11 ana-1002 *-12 ana-1005", // what was before the session is not asked for
		"0":                "ana-1001 *-11 ana-1002 *-12 ana-1005",
		"12":               "ana-1005",
		"1001.99":          "!", // a number that is yet to come
		"9007199254740.1":  "!",
		"77":               "!", // of nobody's event
		".":                "!",
		"1.2.3":            "!",
		"-1":               "!",
		"9007199254740992": "!",
		"1002.x":           "!",
	} {
		ids, in, got := back(t, newReplayer(twoSets()), "ana", socketio.Recovery{PID: pid, Offset: offset})
		if want == "!" {
			if ids != "" || got.Ok || got.PID == pid || in.Complete || in.More || in.Last == nil || in.Last.User != 1005 {
				t.Errorf("%s: %q %+v ok %v", offset, ids, in, got.Ok)
			}
			continue
		}
		if ids != want || !got.Ok || got.PID != pid || !in.Complete {
			t.Errorf("%s: %q %+v ok %v, want %q", offset, ids, in, got.Ok, want)
		}
	}
}

// TestWhatIsNobodysIsNotRecovered: never an event, never a dead end.
func TestWhatIsNobodysIsNotRecovered(t *testing.T) {
	cursor := func(s string) socketio.Recovery { return socketio.Recovery{Cursor: json.RawMessage(s)} }
	for name, asked := range map[string]socketio.Recovery{
		"another user's pid":        {PID: newcomer(t, "bob")},
		"nonsense":                  {PID: "nonsense", Offset: "1002.11"},
		"a pid that is cut off":     {PID: newcomer(t, "ana")[:60]},
		"a pid of another version":  {PID: "AA" + newcomer(t, "ana")[2:]},
		"a pid with huge numbers":   {PID: newPID("ana", Position{User: 1 << 53})},
		"a pid without a position":  {PID: newPID("ana", Position{})},
		"a pid of an older epoch":   {PID: newPID("ana", Position{User: 1001, All: 11, Epoch: Epochs{7, 7}})},
		"a cursor that is to come":  cursor(`{"user":5005,"all":77,"epoch":1}`),
		"a cursor of another epoch": cursor(`{"user":1001,"all":11,"epoch":{"user":9,"all":9}}`),
		"a number of nobody's":      cursor(`500`),
		"a cursor that is none":     cursor(`["x"]`),
	} {
		r := newReplayer(twoSets())
		ids, in, got := back(t, r, "ana", asked)
		if ids != "" || got.Ok || got.PID == asked.PID || in.Complete || in.More || in.Last == nil {
			t.Errorf("%s: %q %+v ok %v", name, ids, in, got.Ok)
			continue
		}
		last, err := json.Marshal(in.Last)
		if err != nil {
			t.Fatal(err)
		}
		if ids, in, got = back(t, r, "ana", socketio.Recovery{Cursor: last}); ids != "" || !got.Ok || !in.Complete {
			t.Errorf("%s, and on from %s: %q %+v", name, last, ids, in)
		}
	}
}

func TestRecoverSinceACursor(t *testing.T) {
	for cursor, want := range map[string]string{
		`{"user":1002,"all":11,"epoch":{"user":1,"all":1}}`: "*-12 ana-1005",
		`{"user":1005,"all":12}`:                            "",
		`"now"`:                                             "",
		`1002`:                                              "*-12 ana-1005",
		`0`:                                                 "ana-1001 *-11 ana-1002 *-12 ana-1005",
	} {
		ids, in, got := back(t, newReplayer(twoSets()), "ana", socketio.Recovery{Cursor: json.RawMessage(cursor)})
		if ids != want || !got.Ok || !in.Complete || in.More || in.Last == nil || in.Last.User != 1005 || in.Last.All != 12 {
			t.Errorf("%s: %q %+v ok %v, want %q", cursor, ids, in, got.Ok, want)
		}
	}
	pid := newcomer(t, "ana")
	if _, _, got := back(t, newReplayer(twoSets()), "ana", socketio.Recovery{PID: pid, Offset: "junk", Cursor: json.RawMessage(`{"user":1002,"all":11}`)}); got.PID != pid {
		t.Error("a cursor says more than the offset, and the session stays the same")
	}
	if ids, in, _ := back(t, newReplayer(twoSets()), "ana", socketio.Recovery{Cursor: json.RawMessage(`null`)}); ids != "" || in.Last != nil {
		t.Errorf("no cursor: %q %+v", ids, in)
	}
}

// TestAPartIsNotTheWhole: who has no cursor would not notice that there is more.
func TestAPartIsNotTheWhole(t *testing.T) {
	r := newReplayer(twoSets())
	r.opt.Limit = 2
	pid := newcomer(t, "ana")
	if ids, in, got := back(t, r, "ana", socketio.Recovery{PID: pid}); ids != "" || got.Ok || in.More {
		t.Errorf("by pid: %q %+v ok %v", ids, in, got.Ok)
	}
	ids, in, got := back(t, r, "ana", socketio.Recovery{Cursor: json.RawMessage(`{"user":1000,"all":10}`)})
	if ids != "ana-1001 *-11 ana-1002 *-12" || got.Ok || !in.Complete || !in.More || in.Last.User != 1002 {
		t.Errorf("by cursor: %q %+v ok %v", ids, in, got.Ok)
	}
}

func TestRecoverWithoutAJournal(t *testing.T) {
	r := newReplayer(&fakeJournal{fail: fault.Errorf("", fault.Unavailable, "redis is away: secret")})
	pid := newPID("ana", Position{User: 5, All: 5})
	for _, asked := range []socketio.Recovery{{PID: pid}, {Cursor: json.RawMessage(`5`)}, {Cursor: json.RawMessage(`"now"`)}} {
		ids, in, got := back(t, r, "ana", asked)
		if ids != "" || got.Ok || in.Complete || in.Error == "" || strings.Contains(in.Error, "secret") || got.Skip != nil || in.Last != nil {
			t.Errorf("%+v: %q %+v", asked, ids, in)
		}
	}
	if got := r.Recover(t.Context(), "ana", socketio.Recovery{}); got.PID == "" || got.Info != nil {
		t.Errorf("a new session: %+v", got)
	}
}

// TestSkip: what was given is not given again live, and nothing else is left out.
func TestSkip(t *testing.T) {
	_, _, got := back(t, newReplayer(twoSets()), "ana", socketio.Recovery{Cursor: json.RawMessage(`0`)})
	own, all := event.Partition("ana", "", 16), event.Partition("*", "", 16)
	packet := func(p int, seq, broadcast uint64, toAll bool) *hub.Packet {
		return hub.NewPacket("x", nil, Offset(event.Position{Partition: p, Seq: seq, Epoch: 1}, broadcast, toAll))
	}
	for _, c := range []struct {
		p    *hub.Packet
		skip bool
	}{
		{packet(own, 1005, 12, false), true}, {packet(own, 1006, 12, false), false}, {packet(own, 1004, 0, false), true},
		{packet(all, 12, 0, true), true}, {packet(all, 13, 0, true), false}, {hub.NewPacket("token_expiring", nil, hub.Position{}), false},
	} {
		if got.Skip(c.p) != c.skip {
			t.Errorf("%+v: skipped %v", c.p.Position, !c.skip)
		}
	}
}

// TestEveryOffsetGoesOnExactlyThere: a client that goes on after any event it got, from a bridge
// that knows nothing of the one before, gets exactly the rest, as far as the offset tells; where the
// last one was for everybody, its own events come by time, some of them again.
func TestEveryOffsetGoesOnExactlyThere(t *testing.T) {
	r := newReplayer(nil) // it delivers nothing, so it remembers nothing
	rapid.Check(t, func(t *rapid.T) {
		j := &fakeJournal{epoch: 1, sets: map[string][][]byte{"ana": {stored("ana", "status", 1000, noon)}, "*": {stored("*", "status", 10, noon)}}}
		r.opt.Journal = j
		var delivered []hub.Position
		var names []string
		seq, last, at := map[string]uint64{"ana": 1000, "*": 10}, uint64(0), noon
		for range rapid.IntRange(1, 30).Draw(t, "events") {
			user := rapid.SampledFrom([]string{"ana", "*"}).Draw(t, "user")
			seq[user] += uint64(rapid.IntRange(1, 3).Draw(t, "step"))
			at += int64(rapid.IntRange(0, 4000).Draw(t, "later"))
			raw := stored(user, "status", seq[user], at)
			j.sets[user] = append(j.sets[user], raw)
			pos := Offset(event.Position{Partition: event.Partition(user, "", 16), Seq: seq[user], Epoch: 1}, last, user == "*")
			if user == "*" {
				last = seq[user]
			}
			delivered, names = append(delivered, pos), append(names, fmt.Sprintf("%s-%d", user, seq[user]))
		}
		pid := newPID("ana", Position{User: 1000, All: 10, Epoch: Epochs{1, 1}})
		seen := rapid.IntRange(0, len(delivered)-1).Draw(t, "seen")
		got := r.Recover(context.Background(), "ana", socketio.Recovery{PID: pid, Offset: offsetOf(delivered[seen])})
		if !got.Ok {
			t.Fatalf("not recovered: %s", got.Info)
		}
		have := map[string]bool{}
		for _, name := range names[:seen+1] {
			have[name] = true
		}
		exact := delivered[seen].User != 0
		var fresh []string
		for _, e := range got.Events {
			name := fmt.Sprintf("ana-%d", e.Seq)
			if e.All == e.Seq {
				name = fmt.Sprintf("*-%d", e.Seq)
			}
			if have[name] {
				if exact {
					t.Fatalf("%s came again after %s", name, names[seen])
				}
				continue
			}
			have[name], fresh = true, append(fresh, name)
			if again := r.Recover(context.Background(), "ana", socketio.Recovery{PID: pid, Offset: offsetOf(e.Position)}); !again.Ok || len(again.Events) >= len(got.Events) {
				t.Fatalf("after %s of a replay of %d: %d events", name, len(got.Events), len(again.Events))
			}
		}
		sets := func(all []string) (own, everybody []string) {
			for _, name := range all {
				if strings.HasPrefix(name, "*") {
					everybody = append(everybody, name)
				} else {
					own = append(own, name)
				}
			}
			return own, everybody
		}
		wantOwn, wantAll := sets(names[seen+1:])
		gotOwn, gotAll := sets(fresh)
		if fmt.Sprint(wantOwn, wantAll) != fmt.Sprint(gotOwn, gotAll) {
			t.Fatalf("after %s of %v: got %v", names[seen], names, fresh)
		}
	})
}

func FuzzRecovery(f *testing.F) {
	f.Add(newPID("ana", Position{User: 1000, All: 10, Epoch: Epochs{1, 1}}), "1002.11")
	f.Add(newPID("bob", Position{}), ".12")
	f.Add("x", "1002")
	f.Add("", "0.0")
	r := newReplayer(twoSets())
	f.Fuzz(func(t *testing.T, pid, offset string) {
		got := r.Recover(context.Background(), "ana", socketio.Recovery{PID: pid, Offset: offset})
		if got.PID == "" || len(got.Events) > 5 || !got.Ok && len(got.Events) > 0 || got.Ok && got.PID != pid {
			t.Fatalf("%q %q: %+v", pid, offset, got)
		}
	})
}
