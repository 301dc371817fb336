package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// A soak run sends at a steady rate for long and shows what grows. Everything that is kept for a
// while is kept for soakWindow, so that it is all full when the first look is taken.

const (
	soakWindow = time.Minute
	soakLead   = 3 * soakWindow // before the first look; shorter than a third of the run
	soakEvery  = time.Minute
)

func soakEnvironment() []string {
	var env []string
	for _, name := range []string{"JOURNAL_AGE", "REPLAY_WINDOW", "DEDUPE_WINDOW", "API_WAL_KEEP"} {
		env = append(env, name+"="+soakWindow.String())
	}
	return env
}

// footprint is what the system takes at a moment, in bytes by name.
type footprint struct {
	names []string
	bytes map[string]float64
}

func (f *footprint) add(name string, bytes float64) {
	f.names = append(f.names, name)
	f.bytes[name] = bytes
}

func (l *load) footprint(ctx context.Context) (*footprint, error) {
	f := &footprint{bytes: map[string]float64{}}
	for _, p := range l.system.Processes() {
		f.add("RSS of "+p.Name, rssMB(p.PID())*(1<<20))
	}
	out, err := exec.CommandContext(ctx, "redis-cli", "-u", l.system.Redis, "info", "memory").Output()
	if err != nil {
		return nil, fmt.Errorf("redis-cli: %w", err)
	}
	f.add("Redis memory", number(string(out), "used_memory:"))
	for _, x := range [...]struct{ name, dir string }{{"disk, log of the api", "api-1"}, {"disk, spool of the indexer", "indexer-1"}} {
		size, err := diskUse(filepath.Join(l.o.dir, x.dir))
		if err != nil {
			return nil, err
		}
		f.add(x.name, size)
	}
	index, err := l.indexSize(ctx)
	f.add("disk, index", index)
	return f, err
}

// number is the one after name in a text.
func number(text, name string) float64 {
	_, rest, _ := strings.Cut(text, name)
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	n, _ := strconv.ParseFloat(rest[:max(end, 0)], 64) // 0 where there is none
	return n
}

// diskUse is the size of all files below dir, which must be there.
func diskUse(dir string) (sum float64, err error) {
	if _, err := os.Stat(dir); err != nil {
		return 0, err
	}
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			sum += float64(info.Size())
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	return sum, err
}

// indexSize is what the index takes on disk; 0 where the server does not tell.
func (l *load) indexSize(ctx context.Context) (float64, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, l.system.ES+"/_stats/store", nil)
	if err != nil {
		return 0, err
	}
	got, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	defer func() { _ = got.Body.Close() }()
	var stats struct {
		All struct {
			Primaries struct {
				Store struct {
					Bytes float64 `json:"size_in_bytes"`
				} `json:"store"`
			} `json:"primaries"`
		} `json:"_all"`
	}
	body, err := io.ReadAll(got.Body)
	if err == nil && got.StatusCode == http.StatusOK {
		err = json.Unmarshal(body, &stats)
	}
	return stats.All.Primaries.Store.Bytes, err
}

// soak fills what is kept for a while, then sends at the rate for the time given and shows what the
// system takes before and after. It reports whether every event arrived once.
func (l *load) soak(ctx context.Context, out io.Writer) (whole bool, err error) {
	lead := min(soakLead, l.o.Soak/3)
	if _, err := l.steady(ctx, newPart("soak-lead", l.mark, l.events(lead))); err != nil {
		return false, err
	}
	before, err := l.footprint(ctx)
	if err != nil {
		return false, err
	}
	watched, stop := context.WithCancel(ctx)
	l.readers.Go(func() { l.look(watched, out) })
	p := newPart("soak", l.mark, l.events(l.o.Soak-lead))
	f, err := l.steady(ctx, p)
	stop()
	if err != nil {
		return false, err
	}
	after, err := l.footprint(ctx)
	if err != nil {
		return false, err
	}
	r := result{Options: l.o, Steady: f}
	err = errors.Join(r.table(out), growth(out, before, after))
	if f.Sent > 0 && err == nil {
		_, err = fmt.Fprintf(out, "index: %.0f bytes an event, until INDEXER_RETENTION deletes its day\n", (after.bytes["disk, index"]-before.bytes["disk, index"])/float64(f.Sent))
	}
	return !r.lost(), err
}

// events is how many the rate makes in a time.
func (l *load) events(d time.Duration) int { return int(float64(l.o.Rate) * d.Seconds()) }

// look prints now and then what the system takes, until ctx ends.
func (l *load) look(ctx context.Context, out io.Writer) {
	tick := time.NewTicker(soakEvery)
	defer tick.Stop()
	for began := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, err := l.footprint(ctx)
		if err != nil {
			continue
		}
		var b strings.Builder
		for _, name := range now.names {
			fmt.Fprintf(&b, "  %s %.1f MB", name, now.bytes[name]/(1<<20))
		}
		_, _ = fmt.Fprintf(out, "%v:%s\n", time.Since(began).Round(time.Second), b.String()) // the table at the end counts
	}
}

func growth(out io.Writer, before, after *footprint) error {
	t := tabwriter.NewWriter(out, 0, 4, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(t, "what\tMB at the start\tMB at the end\tgrowth\t") // tabwriter keeps an error for Flush
	for _, name := range after.names {
		was, is := before.bytes[name], after.bytes[name]
		grown := "-"
		if was > 0 {
			grown = fmt.Sprintf("%+.1f %%", 100*(is-was)/was)
		}
		_, _ = fmt.Fprintf(t, "%s\t%.1f\t%.1f\t%s\t\n", name, was/(1<<20), is/(1<<20), grown)
	}
	return t.Flush()
}

// soak runs a soak instead of the two parts.
func soak(ctx context.Context, o options, out io.Writer) error {
	o.Env = append(soakEnvironment(), o.Env...)
	whole := false
	err := system(ctx, o, func(l *load) (err error) {
		whole, err = l.soak(ctx, out)
		return err
	})
	if err == nil && !whole {
		err = errors.New("events were lost or repeated")
	}
	return err
}
