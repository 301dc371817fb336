package chaos

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"
)

// good is a history in which every promise was kept: two users, three events each.
func good() *History {
	h := &History{}
	for _, user := range []string{"ana", "bob"} {
		for n := 1; n <= 3; n++ {
			e := Record{ID: fmt.Sprintf("%s-%d", user, n), User: user, N: n, Seq: uint64(100*len(h.Records) + n), Epoch: 7, Partition: int(user[0])}
			for _, what := range []string{Sent, Accepted, Delivered, Stored, Indexed} {
				e.What = what
				h.add(e)
			}
		}
	}
	return h
}

// forge changes the record of that kind and id, or takes it away.
func forge(h *History, what, id string, change func(*Record) (keep bool)) {
	h.Records = slices.DeleteFunc(h.Records, func(r Record) bool { return r.What == what && r.ID == id && !change(&r) })
	for i := range h.Records {
		if r := &h.Records[i]; r.What == what && r.ID == id {
			change(r)
		}
	}
}

func drop(*Record) bool { return false }

func again(h *History, what, id string, change func(*Record)) {
	for _, r := range h.Records {
		if r.What == what && r.ID == id {
			change(&r)
			h.Records = append(h.Records, r)
			return
		}
	}
}

func same(*Record) {}

// TestTheCheckerSeesWhatIsWrong gives it histories with one lie each. A checker that passes one
// of them would pass a system that does it.
func TestTheCheckerSeesWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		forge func(*History)
		want  []string
	}{
		"nothing is wrong":   {func(*History) {}, nil},
		"nothing happened":   {func(h *History) { h.Records = nil }, []string{NothingToCheck}},
		"one is not indexed": {func(h *History) { forge(h, Indexed, "ana-2", drop) }, []string{NotIndexed}},
		"the last is lost":   {func(h *History) { forge(h, Delivered, "bob-3", drop) }, []string{NotDelivered}},
		"all of a user are lost": {func(h *History) {
			forge(h, Delivered, "bob-1", drop)
			forge(h, Delivered, "bob-2", drop)
			forge(h, Delivered, "bob-3", drop)
		}, []string{NotDelivered}},
		"indexed twice": {func(h *History) { again(h, Indexed, "ana-1", same) }, []string{IndexedTwice}},
		"an invented event is indexed": {func(h *History) {
			h.add(Record{What: Indexed, ID: "x", User: "ana", N: 4, Seq: 999, Epoch: 7})
		}, []string{Invented}},
		"an invented event is delivered": {func(h *History) { h.add(Record{What: Delivered, ID: "x", User: "ana", N: 4}) }, []string{Invented}},
		"another number in the index": {func(h *History) {
			forge(h, Indexed, "ana-2", func(r *Record) bool { r.N = 5; return true })
		}, []string{Changed, NotIndexed}},
		"another user in the index": {func(h *History) {
			forge(h, Indexed, "ana-2", func(r *Record) bool { r.User = "bob"; return true })
		}, []string{Changed, NotIndexed}},
		"in somebody else's browser": {func(h *History) { again(h, Delivered, "ana-2", func(r *Record) { r.User = "bob" }) }, []string{OthersEvent}},
		"pushed twice":               {func(h *History) { again(h, Delivered, "ana-2", same) }, []string{PushedTwice}},
		"again by sync":              {func(h *History) { again(h, Delivered, "ana-2", func(r *Record) { r.Sync = true }) }, nil},
		"later than a newer one": {func(h *History) {
			forge(h, Delivered, "ana-2", drop)
			h.add(Record{What: Delivered, ID: "ana-2", User: "ana", N: 2})
		}, []string{BrowserOrder}},
		"only by asking again": {func(h *History) {
			forge(h, Delivered, "ana-2", drop)
			h.add(Record{What: Delivered, ID: "ana-2", User: "ana", N: 2, Sync: true, Late: true})
		}, []string{LateOnly}},
		"the same where Redis lost data": {func(h *History) {
			h.Loses = true
			forge(h, Delivered, "ana-2", drop)
			h.add(Record{What: Delivered, ID: "ana-2", User: "ana", N: 2, Sync: true, Late: true})
		}, nil},
		"lost where Redis lost data": {func(h *History) {
			h.Loses = true
			forge(h, Delivered, "ana-2", drop)
			forge(h, Indexed, "ana-1", drop)
		}, []string{NotDelivered, NotIndexed}},
		"stored out of order": {func(h *History) {
			forge(h, Stored, "ana-3", func(r *Record) bool { r.Seq = 3; return true })
		}, []string{StoredOrder}},
		"stored again in a new epoch": {func(h *History) {
			again(h, Stored, "ana-1", func(r *Record) { r.Seq, r.Epoch = 100_000, 8 })
		}, nil},
		"stored again in the same epoch": {func(h *History) {
			again(h, Stored, "ana-3", func(r *Record) { r.Seq = 100_000 })
		}, []string{StoredTwice}},
		"one number for two": {func(h *History) {
			var first uint64
			forge(h, Stored, "bob-1", func(r *Record) bool { first = r.Seq; return true })
			forge(h, Stored, "bob-2", func(r *Record) bool { r.Seq = first; return true })
		}, []string{NumberTwice}},
		"not accepted, and yet there": {func(h *History) { forge(h, Accepted, "ana-2", drop) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			h := good()
			c.forge(h)
			v := Check(h)
			var got []string
			for what := range v.Faults {
				got = append(got, what)
			}
			slices.Sort(got)
			slices.Sort(c.want)
			if !slices.Equal(got, c.want) {
				t.Errorf("found %q, want %q\n%s", got, c.want, v)
			}
		})
	}
}

func TestAHistoryIsReadAsWritten(t *testing.T) {
	h := good()
	h.Loses = true
	var b bytes.Buffer
	if err := h.Write(&b); err != nil {
		t.Fatal(err)
	}
	back, err := ReadHistory(&b)
	if err != nil || !back.Loses || !reflect.DeepEqual(h.Records, back.Records) {
		t.Errorf("%v\n%v\n%v", err, h.Records, back.Records)
	}
}

func TestAPlanIsItsSeeds(t *testing.T) {
	a, b := NewPlan(7, time.Hour, 10*time.Second), NewPlan(7, time.Hour, 10*time.Second)
	if !reflect.DeepEqual(a, b) {
		t.Error("the same seed made two plans")
	}
	if reflect.DeepEqual(a.Faults, NewPlan(8, time.Hour, 10*time.Second).Faults) {
		t.Error("another seed made the same plan")
	}
	seen := map[string]int{}
	for i, f := range a.Faults {
		seen[fmt.Sprint(f.Kind, f.Targets)]++
		if i > 0 && a.Faults[i-1].At+a.Faults[i-1].For > f.At {
			t.Errorf("%s begins before %s ends", f, a.Faults[i-1])
		}
	}
	if len(seen) != len(every()) {
		t.Errorf("an hour has %d harms of %d", len(seen), len(every()))
	}
	if p := NewPlan(7, time.Minute, 5*time.Second, Kill, Stop); p.Loses() || len(p.Faults) == 0 {
		t.Errorf("kills and stops only: %s", p)
	}
}
