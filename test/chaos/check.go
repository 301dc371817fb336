package chaos

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Verdict is what the checker found: each way in which promises were broken, with the events
// it happened to, and some figures. A history that is good has no faults.
type Verdict struct {
	Faults  map[string][]string // ids and what else helps, by what happened to them
	Figures map[string]int
}

// Good reports whether every promise was kept.
func (v Verdict) Good() bool { return len(v.Faults) == 0 }

// String is the verdict as text, with at most ten events a fault.
func (v Verdict) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(v.Figures)) {
		fmt.Fprintf(&b, "%-28s %8d\n", name, v.Figures[name])
	}
	for _, name := range slices.Sorted(maps.Keys(v.Faults)) {
		ids := v.Faults[name]
		fmt.Fprintf(&b, "BROKEN: %s: %d\n", name, len(ids))
		for _, id := range ids[:min(10, len(ids))] {
			fmt.Fprintf(&b, "    %s\n", id)
		}
	}
	return b.String()
}

// The promises that can be broken.
const (
	NotIndexed     = "accepted and not in the index"
	IndexedTwice   = "in the index more than once"
	Invented       = "never sent, and yet there"
	Changed        = "not what was sent"
	NotDelivered   = "accepted and never in its user's browser"
	OthersEvent    = "in a browser of somebody else"
	LateOnly       = "missing in a connected browser until it asked again"
	PushedTwice    = "pushed live more than once"
	BrowserOrder   = "out of order in a browser"
	StoredOrder    = "stored out of a user's order within an epoch"
	StoredTwice    = "in the journal more than once within an epoch"
	NumberTwice    = "a number used for two events"
	NothingToCheck = "a history without accepted events"
)

type checker struct {
	loses    bool
	sent     map[string]Record
	accepted map[string]bool
	v        Verdict
}

// Check judges a history. It knows the promises and nothing of how they are kept. Where Redis
// lost data, these are weaker: an event may come live twice, and the events that came back
// are in a browser by sync only, after newer ones.
func Check(h *History) Verdict {
	c := &checker{loses: h.Loses, sent: map[string]Record{}, accepted: map[string]bool{}, v: Verdict{Faults: map[string][]string{}, Figures: map[string]int{}}}
	by := map[string][]Record{}
	for _, r := range h.Records {
		by[r.What] = append(by[r.What], r)
		c.v.Figures[r.What]++
	}
	for _, r := range by[Sent] {
		c.sent[r.ID] = r
	}
	for _, r := range by[Accepted] {
		c.accepted[r.ID] = true
	}
	if len(c.accepted) == 0 {
		c.broken(NothingToCheck, "")
	}
	c.index(by[Indexed])
	c.journal(by[Stored])
	c.browsers(by[Delivered])
	return c.v
}

func (c *checker) broken(what, id string) { c.v.Faults[what] = append(c.v.Faults[what], id) }

// known checks an event against what was sent.
func (c *checker) known(r Record) bool {
	was, ok := c.sent[r.ID]
	switch {
	case !ok:
		c.broken(Invented, r.What+" "+r.ID)
	case was.N != r.N || r.What != Delivered && was.User != r.User:
		c.broken(Changed, fmt.Sprintf("%s %s: user %s n %d, sent as user %s n %d", r.What, r.ID, r.User, r.N, was.User, was.N))
	case was.User != r.User:
		c.broken(OthersEvent, fmt.Sprintf("%s of %s at %s", r.ID, was.User, r.User))
	default:
		return true
	}
	return false
}

func (c *checker) index(docs []Record) {
	there := map[string]int{}
	docs = slices.DeleteFunc(docs, func(r Record) bool { return !c.known(r) })
	for _, r := range docs {
		there[r.ID]++
	}
	for id := range c.accepted {
		if there[id] == 0 {
			c.broken(NotIndexed, c.name(id))
		}
	}
	for id, n := range there {
		if n > 1 {
			c.broken(IndexedTwice, fmt.Sprintf("%s: %d times", id, n))
		}
	}
	c.order(docs)
}

func (c *checker) name(id string) string {
	return fmt.Sprintf("%s (%s's %d)", id, c.sent[id].User, c.sent[id].N)
}

type place struct {
	partition int
	seq       uint64
}

func (c *checker) journal(entries []Record) {
	type once struct {
		id    string
		epoch uint64
	}
	at, seen := map[place]string{}, map[once]bool{}
	entries = slices.DeleteFunc(entries, func(r Record) bool { return !c.known(r) })
	for _, r := range entries {
		p := place{r.Partition, r.Seq}
		if other, taken := at[p]; taken {
			c.broken(NumberTwice, fmt.Sprintf("%d/%d: %s and %s", r.Partition, r.Seq, other, r.ID))
		}
		at[p] = r.ID
		if seen[once{r.ID, r.Epoch}] {
			c.broken(StoredTwice, c.name(r.ID))
		}
		seen[once{r.ID, r.Epoch}] = true
	}
	c.order(entries)
}

// order: within an epoch a user's events were stored as they were accepted.
func (c *checker) order(entries []Record) {
	type run struct {
		user  string
		epoch uint64
	}
	runs := map[run][]Record{}
	for _, r := range entries {
		runs[run{r.User, r.Epoch}] = append(runs[run{r.User, r.Epoch}], r)
	}
	for _, list := range runs {
		slices.SortStableFunc(list, func(a, b Record) int { return cmp.Compare(a.Seq, b.Seq) })
		for i := 1; i < len(list); i++ {
			if list[i].N < list[i-1].N {
				c.broken(StoredOrder, fmt.Sprintf("%s %s after %d, seq %d", list[i].What, c.name(list[i].ID), list[i-1].N, list[i].Seq))
			}
		}
	}
}

func (c *checker) browsers(events []Record) {
	got, live, newest := map[string]bool{}, map[string]int{}, map[string]int{}
	for _, r := range events {
		if !c.known(r) {
			continue
		}
		if !r.Sync {
			live[r.ID]++
		}
		if got[r.ID] {
			c.v.Figures["delivered again"]++
			continue
		}
		got[r.ID] = true
		if r.Sync {
			c.v.Figures["delivered by sync"]++
		}
		if r.N < newest[r.User] && !c.loses && !r.Late {
			c.broken(BrowserOrder, fmt.Sprintf("%s after %d", c.name(r.ID), newest[r.User]))
		}
		newest[r.User] = max(newest[r.User], r.N)
		if r.Late {
			c.v.Figures["delivered late"]++
			if !c.loses {
				c.broken(LateOnly, c.name(r.ID))
			}
		}
	}
	for id := range c.accepted {
		if !got[id] {
			c.broken(NotDelivered, c.name(id))
		}
	}
	for id, n := range live {
		if n > 1 {
			c.v.Figures["pushed live again"] += n - 1
			if !c.loses {
				c.broken(PushedTwice, fmt.Sprintf("%s: %d times", c.name(id), n))
			}
		}
	}
}
