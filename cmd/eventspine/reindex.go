package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"eventspine/internal/archive"
	"eventspine/internal/fault"
	"eventspine/internal/maintain"
)

func reindexCommand() *cobra.Command {
	r := reindexCall{}
	c := &cobra.Command{
		Use:   "reindex",
		Short: "Rebuild daily indices under the mapping that new ones get",
		Long: "Copy each daily index whose mapping is not the one that new indices get into a new index, and put that in its\n" +
			"place in one step. Events that come in meanwhile are neither lost nor refused, and searches see each event\n" +
			"once. It can be ended at any time, and begun again: days that are done stay done.",
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r.out, r.notes = c.OutOrStdout(), c.ErrOrStderr()
			return r.run(c.Context())
		},
	}
	c.Flags().BoolVar(&r.all, "all", false, "also indices that have the current mapping")
	c.Flags().StringSliceVar(&r.days, "day", nil, "only these days, such as 2026.11.21, also with the current mapping")
	c.Flags().BoolVar(&r.list, "list", false, "only list the indices that would be rebuilt")
	r.stores.flags(c)
	return c
}

type reindexCall struct {
	stores     stores
	all, list  bool
	days       []string
	out, notes io.Writer

	began  time.Time
	lately time.Time // when progress was printed last
}

func (r *reindexCall) run(ctx context.Context) error {
	for _, d := range r.days {
		if _, err := time.Parse("2006.01.02", d); err != nil {
			return usage(fmt.Errorf("--day %s: give a day such as 2026.11.21", d))
		}
	}
	client, a, err := r.stores.open()
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }() // nothing is written that could be lost
	defer a.Close()
	switch embedded, err := a.Embedded(ctx); {
	case err != nil:
		return err
	case embedded:
		return usage(errors.New("the embedded index of `eventspine dev` has no mapping to rebuild; reindex needs a real Elasticsearch (ES_HOST)"))
	}
	if r.list {
		return r.print(ctx, a)
	}
	r.began = time.Now()
	progress := r.line
	if f, ok := r.notes.(*os.File); ok && isTerminal(f) {
		progress = r.bar
	}
	n, err := (&maintain.Reindexer{Archive: a, Redis: client, Progress: progress}).Run(ctx, r.pick)
	if err != nil {
		return fault.Errorf("", fault.KindOf(err), "%w; %d indices are done, the others are as they were: run it again to go on", err, n)
	}
	_, err = fmt.Fprintf(r.out, "%d indices rebuilt in %v\n", n, time.Since(r.began).Round(time.Millisecond))
	return err
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// pick is the days to rebuild.
func (r *reindexCall) pick(d archive.Day) bool {
	if len(r.days) > 0 {
		return slices.Contains(r.days, d.Date.Format("2006.01.02"))
	}
	return r.all || !d.Current
}

func (r *reindexCall) print(ctx context.Context, a *archive.Archive) error {
	days, err := a.Days(ctx)
	if err != nil {
		return err
	}
	for _, d := range days {
		if !r.pick(d) {
			continue
		}
		n, err := a.CountDay(ctx, d)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(r.out, "%s  %d documents\n", d.Name, n); err != nil {
			return err
		}
	}
	return nil
}

const (
	barWidth  = 30
	barEvery  = 100 * time.Millisecond
	lineEvery = 5 * time.Second
)

// due bounds how often progress is printed; a day that is done is told of always.
func (r *reindexCall) due(p maintain.Progress, every time.Duration) bool {
	if !p.Done && time.Since(r.lately) < every {
		return false
	}
	r.lately = time.Now()
	return true
}

func share(p maintain.Progress) float64 {
	if p.Total == 0 {
		return 1
	}
	return float64(p.Docs) / float64(p.Total)
}

// bar draws progress anew over itself.
func (r *reindexCall) bar(p maintain.Progress) {
	if !r.due(p, barEvery) {
		return
	}
	full := int(share(p) * barWidth)
	left := "?"
	if took := time.Since(r.began); p.Docs > 0 {
		left = time.Duration(float64(took) * float64(p.Total-p.Docs) / float64(p.Docs)).Round(time.Second).String()
	}
	end := ""
	if p.Done && p.Number == p.All {
		end = "\n"
	}
	_, _ = fmt.Fprintf(r.notes, "\r[%s%s] %3.0f %%  %s (%d of %d)  %d of %d documents, %s left \x1b[K%s", strings.Repeat("#", full), strings.Repeat(".", barWidth-full),
		100*share(p), p.Day, p.Number, p.All, p.Docs, p.Total, left, end) // progress that cannot be shown ends nothing
}

// line tells of progress where there is no terminal.
func (r *reindexCall) line(p maintain.Progress) {
	if !r.due(p, lineEvery) {
		return
	}
	what := "copying"
	if p.Done {
		what = "done"
	}
	_, _ = fmt.Fprintf(r.notes, "%s: %s (%d of %d), %d of %d documents, %.0f %%\n", p.Day, what, p.Number, p.All, p.Docs, p.Total, 100*share(p)) // as for bar
}
