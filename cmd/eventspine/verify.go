package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"eventspine/internal/checkpoint"
	"eventspine/internal/fault"
	"eventspine/internal/journal"
	"eventspine/internal/maintain"
)

func verifyCommand() *cobra.Command {
	v := verifyCall{}
	c := &cobra.Command{
		Use:   "verify",
		Short: "Compare the index with the journal, and put back what is missing",
		Long: "Compare, for each partition, the numbers that the journal holds with those in the index, by counts: millions\n" +
			"of events take seconds. Events that are younger than --lag, that the indexer says it has not indexed yet, or\n" +
			"that Elasticsearch refused for good are not missing. Redis and Elasticsearch are those of the indexer's\n" +
			"environment. The exit code is 1 when something is missing and not repaired, or there twice.",
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if v.request.Since < 0 || v.request.Lag < 0 || v.request.Limit < 0 {
				return usage(errors.New("--since, --lag and --limit must not be negative"))
			}
			return v.run(c.Context(), c.OutOrStdout())
		},
	}
	c.Flags().DurationVar(&v.request.Since, "since", 0, "only events that were stored at most so long ago; 0s: all that the journal holds")
	c.Flags().DurationVar(&v.request.Lag, "lag", maintain.DefaultLag, "leave out events that were stored less than this ago: they are on their way")
	c.Flags().BoolVar(&v.request.Repair, "repair", false, "index what is missing, from the journal")
	c.Flags().IntVar(&v.request.Limit, "limit", 100, "missing events that are listed at most; all are counted")
	c.Flags().BoolVar(&v.json, "json", false, "print one JSON object")
	v.stores.flags(c)
	return c
}

type verifyCall struct {
	stores  stores
	request maintain.Request
	json    bool
}

func (v *verifyCall) run(ctx context.Context, out io.Writer) error {
	client, a, err := v.stores.open()
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }() // nothing is written that could be lost
	defer a.Close()
	n, err := journal.Partitions(ctx, client)
	if err != nil {
		return err
	}
	began := time.Now()
	verifier := maintain.Verifier{Journal: journal.New(client, journal.Options{Partitions: n}), Archive: a, Partitions: n,
		Checkpoint: checkpoint.New(client, v.stores.c.Checkpoint), Redis: client}
	report, err := verifier.Verify(ctx, v.request)
	if err != nil {
		return err
	}
	if v.json {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		err = e.Encode(report)
	} else {
		err = v.print(out, report, time.Since(began))
	}
	if err != nil || report.Agrees() {
		return err
	}
	return disagreement(report.Sum())
}

func disagreement(all maintain.Row) error {
	switch left := all.Missing - all.Repaired; {
	case left > 0 && all.Repaired == 0:
		return fault.Errorf("", fault.Conflict, "%d of %d events are missing in the index; --repair puts them back", left, all.Journal)
	case left > 0:
		return fault.Errorf("", fault.Conflict, "%d of %d events are still missing: Elasticsearch refuses them", left, all.Journal)
	}
	return fault.Errorf("", fault.Conflict, "%d documents have the number of another", all.Repeated)
}

// print writes the table and what else there is to say.
func (v *verifyCall) print(out io.Writer, r *maintain.Report, took time.Duration) error {
	t := tabwriter.NewWriter(out, 0, 4, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(t, "PARTITION\tEPOCH\tFROM\tTO\tJOURNAL\tINDEX\tMISSING\tDUPLICATES\t") // tabwriter keeps an error for Flush
	for _, x := range r.Rows {
		_, _ = fmt.Fprintf(t, "%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n", x.Partition, x.Epoch, x.First, x.Last, x.Journal, x.Index, x.Missing, x.Repeated)
	}
	all := r.Sum()
	_, _ = fmt.Fprintf(t, "all\t\t\t\t%d\t%d\t%d\t%d\t\n", all.Journal, all.Index, all.Missing, all.Repeated)
	if err := t.Flush(); err != nil {
		return err
	}
	for _, m := range r.Missing {
		what := "missing"
		switch {
		case m.Repaired:
			what = "repaired"
		case m.Refused != "":
			what = "refused: " + m.Refused
		}
		_, _ = fmt.Fprintf(out, "partition %d  seq %d  id %q  %s\n", m.Partition, m.Seq, m.ID, what)
	}
	if more := all.Missing - int64(len(r.Missing)); more > 0 {
		_, _ = fmt.Fprintf(out, "and %d more\n", more)
	}
	for _, x := range r.Repeated {
		_, _ = fmt.Fprintf(out, "partition %d  seq %d  has %d documents\n", x.Partition, x.Seq, x.Documents)
	}
	return v.notes(out, r, took)
}

// notes says what the table does not.
func (v *verifyCall) notes(out io.Writer, r *maintain.Report, took time.Duration) error {
	var young, waiting uint64
	trimmed := 0
	for _, p := range r.Partitions {
		young, waiting = young+p.Young, waiting+p.Waiting
		if p.Trimmed {
			trimmed++
		}
	}
	all := r.Sum()
	for _, n := range []struct {
		count  int64
		format string
	}{
		{all.Repaired, "%d events were missing and are in the index now\n"},
		{all.Moved, "%d events have the number of an earlier epoch in the index: they were stored again\n"},
		{all.Dead, "%d events are dead letters: Elasticsearch refused them (eventspine deadletters list)\n"},
		{all.Expired, "%d events are of days whose index was deleted for its age\n"},
		{int64(waiting), "%d events wait for the indexer and were not compared\n"},
		{int64(young), "%d events are younger than --lag and were not compared\n"},
		{all.Unread, "%d numbers differ, but left the journal before they could be looked at\n"},
	} {
		if n.count > 0 {
			_, _ = fmt.Fprintf(out, n.format, n.count)
		}
	}
	if trimmed > 0 {
		asked := "to its beginning"
		if v.request.Since > 0 {
			asked = v.request.Since.String()
		}
		_, _ = fmt.Fprintf(out, "the journal was trimmed: in %d of %d partitions it does not reach back %s, and older events were not compared\n", trimmed, len(r.Partitions), asked)
	}
	_, err := fmt.Fprintf(out, "%d events compared in %v\n", all.Journal, took.Round(time.Millisecond))
	return err
}
