package maintain_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"eventspine/internal/archive"
	"eventspine/internal/fault"
	"eventspine/internal/maintain"
	"eventspine/internal/testkit"
)

// keeper runs a Keeper until its stop is called, which waits for its end.
func (f *fixture) keeper(o maintain.KeeperOptions) (reg *prometheus.Registry, stop func()) {
	f.t.Helper()
	reg = prometheus.NewRegistry()
	o.Verifier, o.Redis, o.Metrics = f.verifier(), f.redis, reg
	if o.Lease == 0 {
		o.Lease = 600 * time.Millisecond
	}
	ctx, cancel := context.WithCancel(f.t.Context())
	var running sync.WaitGroup
	k := maintain.NewKeeper(o)
	running.Go(func() {
		if err := k.Run(ctx); err != nil {
			f.t.Errorf("the keeper ended: %v", err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	f.t.Cleanup(stop)
	return reg, stop
}

// value is a metric without labels.
func value(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	all, err := reg.Gather()
	must(t, err)
	for _, m := range all {
		if m.GetName() == "eventspine_maintain_"+name {
			return m.GetMetric()[0].GetGauge().GetValue() + m.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

func (f *fixture) days() string {
	f.t.Helper()
	days, err := f.archive.Days(f.t.Context())
	must(f.t, err)
	names := make([]string, len(days))
	for i, d := range days {
		names[i] = d.Date.Format("01-02")
	}
	return strings.Join(names, " ")
}

// TestOneIndexerDeletesWhatIsTooOld: of three, one is elected; days past the retention go, the
// others stay; when it ends, another goes on.
func TestOneIndexerDeletesWhatIsTooOld(t *testing.T) {
	eachIndex(t, func(f *fixture) {
		later := func() time.Time { return time.Now().AddDate(0, 0, 40) } // or all indices would be new
		at := func(days int) time.Time { return today.AddDate(0, 0, 40-days) }
		fill := func(id string) {
			f.index(f.store(posted(id+"-new", at(0)), posted(id+"-young", at(29)), posted(id+"-old", at(31)), posted(id+"-older", at(400)))...)
		}
		fill("a")
		kept := at(29).Format("01-02") + " " + at(0).Format("01-02")
		regs := map[*prometheus.Registry]func(){}
		for range 3 {
			reg, stop := f.keeper(maintain.KeeperOptions{Retention: 30 * 24 * time.Hour, RetainEvery: 50 * time.Millisecond, Now: later})
			regs[reg] = stop
		}
		elected := func() (which *prometheus.Registry, n int) {
			for reg := range regs {
				if value(t, reg, "elected") == 1 {
					which, n = reg, n+1
				}
			}
			return which, n
		}
		testkit.Eventually(t, 20*time.Second, func() bool { return f.days() == kept }, "the old days are gone")
		first, n := elected()
		if n != 1 {
			t.Fatalf("%d are elected", n)
		}
		testkit.Eventually(t, 20*time.Second, func() bool { return value(t, first, "deleted_indices_total") == 2 }, "the deletions are counted")
		regs[first]()
		testkit.Eventually(t, 20*time.Second, func() bool { _, n := elected(); return n == 1 }, "another is elected")
		fill("b")
		testkit.Eventually(t, 20*time.Second, func() bool { return f.days() == kept }, "the old days are gone again")
		if which, _ := elected(); which == first {
			t.Error("the one that ended says that it is elected")
		}
	})
}

// TestOldEventsOfTodayStay: an event that is sent today with a timestamp of last year is deleted
// when its index is 30 days old, and then it is not missing.
func TestOldEventsOfTodayStay(t *testing.T) {
	eachIndex(t, func(f *fixture) {
		f.index(f.store(posted("old", today.AddDate(-1, 0, 0)), posted("new", today))...)
		all := f.days()
		var days atomic.Int64
		reg, _ := f.keeper(maintain.KeeperOptions{Retention: 30 * 24 * time.Hour, RetainEvery: 50 * time.Millisecond, VerifyEvery: 50 * time.Millisecond,
			Now: func() time.Time { return time.Now().AddDate(0, 0, int(days.Load())) }})
		for _, later := range []int64{0, 29} {
			days.Store(later)
			last := value(t, reg, "compared_timestamp_seconds")
			testkit.Eventually(t, 20*time.Second, func() bool { return value(t, reg, "compared_timestamp_seconds") > last+1 }, "it has looked")
			if f.days() != all {
				t.Fatalf("after %d days %q are left of %q", later, f.days(), all)
			}
		}
		days.Store(31) // less than today's index, which is 30 days old when its day is
		testkit.Eventually(t, 20*time.Second, func() bool { return f.days() == today.Format("01-02") || f.days() == "" }, "the old day is gone")
		r := f.verify(maintain.Request{Limit: 10})
		if !r.Agrees() || r.Sum().Expired == 0 {
			t.Errorf("%+v, missing %v", r.Sum(), r.Missing)
		}
		ended := f.store(posted("lost", today.AddDate(-1, 0, 1)))
		if r := f.verify(maintain.Request{Limit: 10}); len(r.Missing) != 1 || r.Missing[0].ID != ended[0].ID {
			t.Errorf("an old event of which there never was an index is not missing: %+v", r.Missing)
		}
	})
}

// TestRetentionOfZeroDeletesNothing, and a lease that was lost stops a deletion.
func TestRetentionOfZeroDeletesNothing(t *testing.T) {
	eachIndex(t, func(f *fixture) {
		f.index(f.store(posted("a", today.AddDate(-3, 0, 0)))...)
		reg, _ := f.keeper(maintain.KeeperOptions{VerifyEvery: 100 * time.Millisecond})
		testkit.Eventually(t, 20*time.Second, func() bool { return value(t, reg, "compared_timestamp_seconds") > 0 }, "it works")
		gone, err := f.archive.Retain(t.Context(), time.Now().Add(time.Hour), func(context.Context, archive.Day) error { return fault.Errorf("", fault.Conflict, "lost") })
		if len(gone) != 0 || fault.KindOf(err) != fault.Conflict {
			t.Errorf("deleted %v, %v", gone, err)
		}
		if f.days() == "" {
			t.Error("the old day is gone")
		}
	})
}

// TestEarlyDeletesTheOldestDay, one at a time, none that is young, and only where it is elected.
func TestEarlyDeletesTheOldestDay(t *testing.T) {
	f := newFixture(t, genuine(t))
	later := func() time.Time { return time.Now().AddDate(0, 0, 40) } // or all indices would be new
	today := today.AddDate(0, 0, 40)
	f.index(f.store(posted("a", today), posted("b", today.AddDate(0, 0, -5)), posted("c", today.AddDate(0, 0, -9)), posted("d", today.AddDate(0, 0, -20)))...)
	reg := prometheus.NewRegistry()
	k := maintain.NewKeeper(maintain.KeeperOptions{Verifier: f.verifier(), Redis: f.redis, Retention: 30 * 24 * time.Hour, RetainLeast: 7 * 24 * time.Hour, Metrics: reg, Now: later})
	must(t, k.Early(t.Context()))
	if f.days() == "" || len(strings.Fields(f.days())) != 4 {
		t.Errorf("without being elected: %s", f.days())
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = k.Run(ctx) })
	defer func() { cancel(); running.Wait() }()
	testkit.Eventually(t, 20*time.Second, func() bool { return value(t, reg, "elected") == 1 }, "it is elected")
	for _, left := range []int{3, 2, 2} {
		must(t, k.Early(t.Context()))
		if days := strings.Fields(f.days()); len(days) != left || days[left-1] != today.Format("01-02") {
			t.Errorf("%v are left, want %d", days, left)
		}
	}
	if n := value(t, reg, "deleted_indices_total"); n != 2 {
		t.Errorf("%v deletions are counted", n)
	}
}

// TestWhatIsMissingIsAMetric: the comparison runs by itself, and after a repair the metric is 0.
func TestWhatIsMissingIsAMetric(t *testing.T) {
	eachIndex(t, func(f *fixture) {
		events := f.store(some("e", 100)...)
		f.index(events...)
		f.remove(events[3])
		reg, stop := f.keeper(maintain.KeeperOptions{VerifyEvery: 50 * time.Millisecond})
		testkit.Eventually(t, 30*time.Second, func() bool { return value(t, reg, "missing_events") == 1 && value(t, reg, "compared_events") == 100 }, "the loss is a metric")
		if r := f.verify(maintain.Request{Repair: true}); !r.Agrees() {
			t.Errorf("%+v", r.Sum())
		}
		testkit.Eventually(t, 30*time.Second, func() bool { return value(t, reg, "missing_events") == 0 && value(t, reg, "compared_events") == 100 }, "the repair is seen")
		stop()
		if n, err := testutil.GatherAndCount(reg); n < 8 || err != nil || value(t, reg, "compared_timestamp_seconds") != 0 {
			t.Errorf("%d metrics, %v; one that is not elected has nothing to say", n, err)
		}
	})
}

// TestReindexOnce: two at a time are not, and one that was killed is mended by an indexer.
func TestReindexOnce(t *testing.T) {
	f := newFixture(t, genuine(t))
	f.index(f.store(some("e", 400)...)...)
	if n, err := (&maintain.Reindexer{Archive: f.archive, Redis: f.redis}).Run(t.Context(), func(d archive.Day) bool { return !d.Current }); n != 0 || err != nil {
		t.Errorf("nothing to do: %d, %v", n, err)
	}
	var second atomic.Value
	var steps []maintain.Progress
	r := maintain.Reindexer{Archive: f.archive, Redis: f.redis}
	r.Progress = func(p maintain.Progress) {
		if len(steps) == 0 {
			_, err := (&maintain.Reindexer{Archive: f.archive, Redis: f.redis}).Run(t.Context(), func(archive.Day) bool { return true })
			second.Store(fault.KindOf(err))
		}
		steps = append(steps, p)
	}
	n, err := r.Run(t.Context(), func(archive.Day) bool { return true })
	if n != 2 || err != nil || second.Load() != fault.Conflict {
		t.Errorf("%d days, %v; the second at once: %v", n, err, second.Load())
	}
	if last := steps[len(steps)-1]; last.Docs != 400 || last.Total != 400 || last.Number != 2 || last.All != 2 || !last.Done {
		t.Errorf("the last step: %+v of %+v", last, steps)
	}
	if r := f.verify(maintain.Request{}); !r.Agrees() || r.Sum().Index != 400 {
		t.Errorf("afterwards: %+v", r.Sum())
	}
	days, err := f.archive.Days(t.Context())
	must(t, err)
	f.plain(t.Context(), "PUT", "/"+f.name+"_3-"+days[0].Date.Format("2006.01.02"), "") // as a killed one leaves it
	f.plain(t.Context(), "PUT", "/"+days[0].Index+"/_block/write", "")
	f.keeper(maintain.KeeperOptions{RetainEvery: 50 * time.Millisecond})
	testkit.Eventually(t, 20*time.Second, func() bool {
		days, err := f.archive.Days(t.Context())
		return err == nil && !days[0].Closed
	}, "the index takes writes again")
	f.index(f.store(posted("late", today), posted("late-too", today.AddDate(0, 0, -1)))...)
}
