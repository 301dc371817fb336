package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Kind is a way to do harm.
type Kind string

// The kinds of harm. A target is a process name, several of them, or the name of a link.
const (
	Kill     Kind = "kill"     // kill -9, and start again when it is over
	Stop     Kind = "stop"     // SIGSTOP, SIGCONT
	Restart  Kind = "restart"  // SIGTERM, and start again
	Hurry    Kind = "hurry"    // SIGTERM, start, SIGTERM while it starts, start
	Burst    Kind = "burst"    // kill -9 of the proxy while events come at four times the rate
	Drop     Kind = "drop"     // one message in a hundred between proxy and subscribers
	Cut      Kind = "cut"      // nothing passes a link, and nobody is told
	Slow     Kind = "slow"     // a link is slow
	Break    Kind = "break"    // a link's connections are closed, and none comes about
	Full     Kind = "full"     // the disk under the logs is full
	Redis    Kind = "redis"    // kill -9 of Redis, which comes back with its append-only file
	Rollback Kind = "rollback" // the same, and the end of that file is lost
	Flush    Kind = "flush"    // FLUSHALL
	Ahead    Kind = "ahead"    // a clock jumps ahead, and back when it is over
	Back     Kind = "back"     // a clock is set back, and right when it is over
	Search   Kind = "search"   // kill -9 of Elasticsearch, which takes some 20 s to come back
)

// Harm to the packets between machines, for a run in a network of its own. Only these name a machine;
// of a link they harm what comes from other machines.
const (
	Hole   Kind = "hole"   // every packet of a link or of a machine vanishes, also those that would end a connection
	Lossy  Kind = "lossy"  // one packet in twenty does
	Late   Kind = "late"   // each is 30 ms late, give or take 10
	Narrow Kind = "narrow" // all machines share 50 Mbit/s, and what would wait for more than 0.2 s vanishes
)

// Loses reports whether the kind makes Redis forget what it said it had.
func (k Kind) Loses() bool { return k == Rollback || k == Flush }

// Fault is one item of a plan. Times count from the beginning of the load.
type Fault struct {
	At, For time.Duration
	Kind    Kind
	Targets []string
}

func (f Fault) String() string {
	return strings.TrimSpace(fmt.Sprintf("%6.1f s, for %4.1f s: %-8s %s", f.At.Seconds(), f.For.Seconds(), f.Kind, strings.Join(f.Targets, " and ")))
}

// Plan is what happens, in the order of time. Faults do not overlap, but those of two targets.
type Plan struct {
	Seed   uint64
	Length time.Duration
	Faults []Fault
}

// services are the processes that a plan harms.
var services = []string{"api-1", "worker-1", "worker-2", "proxy-1", "indexer-1", "bridge-1"}

// Step is by how much a clock is wrong: a minute for each second that it is.
func (f Fault) Step() time.Duration {
	switch f.Kind {
	case Ahead:
		return 60 * f.For
	case Back:
		return -60 * f.For
	}
	return 0
}

var linkNames = [...]string{linkWork, linkPub, linkSub, linkRedis, linkSearch}

// packets lists each harm to packets once, without its time.
func packets() []Fault {
	all := []Fault{{Kind: Narrow}}
	for _, k := range []Kind{Hole, Lossy, Late} {
		for _, l := range linkNames {
			all = append(all, Fault{Kind: k, Targets: []string{l}})
		}
		for _, m := range machines {
			all = append(all, Fault{Kind: k, Targets: []string{m.name}})
		}
	}
	return all
}

// relayed are the harms of links that are in a connection's way: in a network of its own a run has none.
var relayed = []Kind{Drop, Cut, Slow, Break}

// every lists each other harm that there is once, without its time.
func every() []Fault {
	var all []Fault
	add := func(k Kind, targets ...string) { all = append(all, Fault{Kind: k, Targets: targets}) }
	for i, s := range services {
		add(Kill, s)
		add(Stop, s)
		add(Restart, s)
		add(Hurry, s)
		add(Ahead, s)
		add(Back, s)
		add(Kill, s, services[(i+1)%len(services)])
	}
	for _, l := range linkNames {
		add(Cut, l)
		add(Slow, l)
		add(Break, l)
	}
	add(Ahead, services...)
	add(Back, services...)
	add(Burst, "proxy-1")
	add(Drop, linkSub)
	add(Full)
	add(Redis)
	add(Rollback)
	add(Flush)
	add(Search)
	return all
}

// NewPlan chooses harms of the kinds (none: all that need no network of the run's own) for a load of that length, one each gap. The
// same arguments give the same plan. No harm comes twice before each came once, so that a long
// plan has them all; the last tenth of the time is left in peace.
func NewPlan(seed uint64, length, gap time.Duration, kinds ...Kind) Plan {
	r := rand.New(rand.NewPCG(seed, 0))
	p := Plan{Seed: seed, Length: length}
	all := every()
	if len(kinds) > 0 {
		all = slices.DeleteFunc(append(all, packets()...), func(f Fault) bool { return !slices.Contains(kinds, f.Kind) })
	}
	var order []int
	for at := gap / 2; at < length*9/10; at += gap {
		if len(order) == 0 {
			order = r.Perm(len(all))
		}
		f := all[order[0]]
		order = order[1:]
		f.At = at
		f.For = gap/10 + time.Duration(r.Int64N(int64(gap/2)))
		p.Faults = append(p.Faults, f)
	}
	return p
}

// Loses reports whether Redis forgets something in the plan.
func (p Plan) Loses() bool {
	return slices.ContainsFunc(p.Faults, func(f Fault) bool { return f.Kind.Loses() })
}

func (p Plan) has(k Kind) bool {
	return slices.ContainsFunc(p.Faults, func(f Fault) bool { return f.Kind == k })
}

// String is the plan as text, one line a fault.
func (p Plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d, %s of load, %d faults\n", p.Seed, p.Length, len(p.Faults))
	for _, f := range p.Faults {
		fmt.Fprintf(&b, "  %s\n", f)
	}
	return b.String()
}
