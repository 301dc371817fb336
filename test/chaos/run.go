package chaos

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

const (
	patience = 40 * time.Second // without any progress after the load, before what is missing counts as lost
	lateWait = 15 * time.Second // for browsers that asked once more
)

// Outcome is what a run was.
type Outcome struct {
	History *History
	Verdict Verdict
	Seconds float64 // from the end of the load until all was in its place
	Rate    float64 // events accepted a second of load
	Verify  string  // what eventspine verify printed
	Agrees  bool    // and whether the index is what the journal holds, by it
	Notes   string
}

// run is one run in progress.
type run struct {
	*world
	load     *load
	browsers []*browser
	h        *History
	began    time.Time
}

// Run starts the system, does the plan under load, waits for all to come to its place, and
// judges. The error says that the run itself did not work; what the system did wrong is in the
// verdict.
func Run(ctx context.Context, o Options) (out Outcome, err error) {
	w, err := start(ctx, o)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, w.stop()) }()
	r := &run{world: w, h: &History{Loses: o.Plan.Loses()}}
	mark := fmt.Sprintf("%d-%x", o.Plan.Seed, time.Now().UnixMilli())
	var users []string
	for i := range o.Users {
		users = append(users, fmt.Sprintf("u%d-%s", i, mark))
	}
	r.load = newLoad(w.sys.APIURL, mark, users, o.Rate, r.h)
	return r.all(ctx)
}

func (r *run) all(ctx context.Context) (out Outcome, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var side sync.WaitGroup
	defer side.Wait()
	defer cancel()
	for _, u := range r.load.users {
		b := newBrowser(u, r.sys.BridgeURL, r.h)
		r.browsers = append(r.browsers, b)
		side.Go(func() { b.run(ctx) })
	}
	side.Go(func() { r.supervise(ctx) })
	if err := r.connected(ctx); err != nil {
		return out, err
	}
	r.began = time.Now()
	var loading sync.WaitGroup
	loading.Go(func() { r.load.run(ctx, r.o.Plan.Length) })
	err = r.follow(ctx)
	loading.Wait()
	if err != nil {
		return out, err
	}
	out.History, out.Rate = r.h, float64(r.load.count())/time.Since(r.began).Seconds()
	ended := time.Now()
	r.o.Say(fmt.Sprintf("%6.1f s: the load is over, %d events are accepted", time.Since(r.began).Seconds(), r.load.count()))
	r.settle(ctx)
	out.Seconds = time.Since(ended).Seconds()
	if err := r.collect(ctx); err != nil {
		return out, err
	}
	out.Verdict = Check(r.h)
	out.Verify, out.Agrees = r.verify(ctx)
	out.Notes = r.notes()
	return out, nil
}

// connected waits until every browser is.
func (r *run) connected(ctx context.Context) error {
	for range 600 {
		n := 0
		for _, b := range r.browsers {
			b.mu.Lock()
			if b.connects > 0 {
				n++
			}
			b.mu.Unlock()
		}
		if n == len(r.browsers) {
			return nil
		}
		pause(ctx, 100*time.Millisecond)
	}
	return errors.New("not all browsers are connected after a minute")
}

// follow does the plan's faults at their times.
func (r *run) follow(ctx context.Context) error {
	for _, f := range r.o.Plan.Faults {
		if wait := f.At - time.Since(r.began); wait > 0 {
			pause(ctx, wait)
		}
		r.o.Say(fmt.Sprintf("%6.1f s: %s (%d accepted)", time.Since(r.began).Seconds(), f, r.load.count()))
		if err := r.do(ctx, f, r.load); err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
	}
	return ctx.Err()
}

// state is how many events are not yet where they belong.
func (r *run) state(ctx context.Context) (browsers, index int) {
	for _, b := range r.browsers {
		browsers += b.missing(r.load.of(b.user))
	}
	n, err := indexCount(ctx, r.o.ES, r.load.typ)
	if err != nil {
		return browsers, 1
	}
	return browsers, max(0, r.load.count()-n)
}

// settle waits until everything is in its place, or nothing has moved for a while. Browsers that
// miss something then ask once more.
func (r *run) settle(ctx context.Context) {
	best, since, asked := -1, time.Now(), false
	for ctx.Err() == nil {
		browsers, index := r.state(ctx)
		if browsers+index == 0 {
			return
		}
		if best < 0 || browsers+index < best {
			best, since = browsers+index, time.Now()
		}
		limit := patience
		if r.h.Loses && index == 0 || asked {
			limit = lateWait
		}
		if time.Since(since) > limit {
			r.o.Say(fmt.Sprintf("%6.1f s: %d are missing in browsers, %d in the index", time.Since(r.began).Seconds(), browsers, index))
			if asked {
				return
			}
			asked, since = true, time.Now()
			for _, b := range r.browsers {
				if b.missing(r.load.of(b.user)) > 0 {
					b.reconnect()
				}
			}
		}
		pause(ctx, 500*time.Millisecond)
	}
}

func (r *run) collect(ctx context.Context) error {
	docs, err := readIndex(ctx, r.o.ES, r.load.typ)
	if err != nil {
		return err
	}
	entries, err := readJournal(ctx, r.direct, r.load.typ)
	if err != nil {
		return err
	}
	r.h.add(docs...)
	r.h.add(entries...)
	return nil
}

// verify asks the project's own check.
func (r *run) verify(ctx context.Context) (text string, agrees bool) {
	cmd := exec.CommandContext(ctx, filepath.Join(r.o.Bin, "eventspine"), "verify")
	cmd.Env = append(cmd.Environ(), "REDIS_URL="+r.direct, "ES_HOST="+r.o.ES)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%s(%v)", out, err), false
	}
	return string(out), true
}

func (r *run) notes() string {
	connects, incomplete := 0, 0
	for _, b := range r.browsers {
		b.mu.Lock()
		connects, incomplete = connects+b.connects, incomplete+b.incomplete
		b.mu.Unlock()
	}
	var dropped int64
	for _, l := range r.links[linkSub] {
		dropped += l.dropped.Load()
	}
	return fmt.Sprintf("requests without an answer %d, events refused for now %d, connects of browsers %d, incomplete syncs %d, messages dropped %d",
		r.load.failed.Load(), r.load.refused.Load(), connects, incomplete, dropped)
}
