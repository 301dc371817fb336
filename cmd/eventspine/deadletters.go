package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"eventspine/internal/archive"
	"eventspine/internal/event"
	"eventspine/internal/fault"
)

func deadlettersCommand() *cobra.Command {
	d := &deadletters{}
	c := &cobra.Command{
		Use:   "deadletters",
		Short: "See, retry or purge the events that Elasticsearch refused for good",
		Long: "See, retry or purge the dead letters: events that Elasticsearch refused for good, with the reason. They are in\n" +
			"an index of their own, and in dead.jsonl below the indexer's INDEXER_SPOOL_DIR, which these verbs leave alone.",
	}
	list := d.verb("list", "List the dead letters, newest event first", noArgs, d.list)
	list.Flags().IntVar(&d.limit, "limit", 100, "how many at most")
	retry := d.verb("retry [ID...]", "Index dead letters again, and remove those that are taken", cobra.ArbitraryArgs, d.retry)
	purge := d.verb("purge [ID...]", "Remove dead letters for ever", cobra.ArbitraryArgs, d.purge)
	for _, v := range []*cobra.Command{retry, purge} {
		v.Flags().BoolVar(&d.all, "all", false, "all of them")
	}
	c.AddCommand(list, d.verb("show ID", "Print a dead letter: the reason, then the event", cobra.ExactArgs(1), d.show), retry, purge)
	return c
}

// deadletters is one call of the command.
type deadletters struct {
	stores stores
	limit  int
	all    bool

	out     io.Writer
	archive *archive.Archive
}

func (d *deadletters) verb(use, short string, args cobra.PositionalArgs, run func(context.Context, []string) error) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: args, RunE: func(c *cobra.Command, ids []string) error {
		client, a, err := d.stores.open()
		if err != nil {
			return err
		}
		defer func() { _ = client.Close() }() // it was not used
		defer a.Close()
		d.out, d.archive = c.OutOrStdout(), a
		return run(c.Context(), ids)
	}}
	d.stores.flags(c)
	return c
}

func (d *deadletters) list(ctx context.Context, _ []string) error {
	if d.limit < 1 {
		return usage(errors.New("--limit must be at least 1"))
	}
	w := tabwriter.NewWriter(d.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "ID\tTYPE\tUSER\tREFUSED\tSTATUS\tREASON") // Flush tells
	shown, total := 0, int64(0)
	for after := ""; shown < d.limit; {
		page, err := d.archive.Letters(ctx, min(d.limit-shown, archive.MaxSize), after)
		if err != nil {
			return err
		}
		for i := range page.Letters {
			l := &page.Letters[i]
			_, _ = fmt.Fprintf(w, "%q\t%s\t%q\t%s\t%d\t%s\n", l.ID, l.Type, l.UserID, refusedAt(l), l.Status, oneLine(l.Reason, 100))
		}
		shown, total = shown+len(page.Letters), page.Total
		if after = page.Next; after == "" {
			break
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(d.out, "%d of %d dead letters\n", shown, total)
	return err
}

func refusedAt(l *archive.Letter) string {
	return time.UnixMilli(l.RefusedAt).UTC().Format(time.RFC3339)
}

// oneLine is text without control characters, cut to n.
func oneLine(text string, n int) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
	if r := []rune(text); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return text
}

func (d *deadletters) show(ctx context.Context, ids []string) error {
	l, err := d.letter(ctx, ids[0])
	if err == nil {
		_, err = fmt.Fprintf(d.out, "refused at %s with status %d, partition %d, seq %d: %s\n%s\n", refusedAt(&l), l.Status, l.Partition, l.Seq, oneLine(l.Reason, 1000), l.Raw)
	}
	return err
}

func (d *deadletters) letter(ctx context.Context, id string) (archive.Letter, error) {
	l, err := d.archive.Letter(ctx, id)
	if fault.KindOf(err) == fault.NotFound {
		err = fault.Errorf("", fault.NotFound, "there is no dead letter with the id %q", id)
	}
	return l, err
}

// named are the letters that the arguments name, or all of them.
func (d *deadletters) named(ctx context.Context, ids []string) ([]archive.Letter, error) {
	if d.all == (len(ids) > 0) {
		return nil, usage(errors.New("give ids, or --all"))
	}
	var out []archive.Letter
	for _, id := range ids {
		l, err := d.letter(ctx, id)
		if err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	for after := ""; d.all; {
		page, err := d.archive.Letters(ctx, archive.MaxSize, after)
		if err != nil {
			return nil, err
		}
		out = append(out, page.Letters...)
		if after = page.Next; after == "" {
			break
		}
	}
	return out, nil
}

// retry indexes letters again. Those that are refused again stay, and make the call fail.
func (d *deadletters) retry(ctx context.Context, ids []string) error {
	letters, err := d.named(ctx, ids)
	if err != nil {
		return err
	}
	if err := d.archive.Prepare(ctx); err != nil {
		return err
	}
	refused := 0
	for i := range letters {
		l := &letters[i]
		err := d.again(ctx, l)
		switch {
		case err == nil:
			_, err = fmt.Fprintf(d.out, "%q is indexed\n", l.ID)
		case fault.KindOf(err) == fault.Invalid:
			refused++
			_, err = fmt.Fprintf(d.out, "%q is refused again: %s\n", l.ID, oneLine(err.Error(), 1000))
		}
		if err != nil {
			return err
		}
	}
	if refused > 0 {
		return fault.Errorf("", fault.Conflict, "%d of %d events were refused again", refused, len(letters))
	}
	return nil
}

func (d *deadletters) again(ctx context.Context, l *archive.Letter) error {
	e, err := event.ParseStored([]byte(l.Raw))
	if err != nil {
		return fault.E("", fault.Invalid, err)
	}
	r, err := d.archive.Index(ctx, []event.Event{e})
	switch {
	case err != nil:
		return err
	case len(r.Refused) > 0:
		return fault.Errorf("", fault.Invalid, "status %d: %s", r.Refused[0].Status, r.Refused[0].Reason)
	case len(r.Retry) > 0:
		return r.Cause
	}
	return d.archive.Unbury(ctx, l.ID)
}

func (d *deadletters) purge(ctx context.Context, ids []string) error {
	letters, err := d.named(ctx, ids)
	if err == nil && d.all {
		err = d.archive.PurgeLetters(ctx)
	}
	for i := 0; i < len(letters) && err == nil && !d.all; i++ {
		err = d.archive.Unbury(ctx, letters[i].ID)
	}
	if err == nil {
		_, err = fmt.Fprintf(d.out, "%d dead letters are removed\n", len(letters))
	}
	return err
}
