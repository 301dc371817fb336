package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"eventspine/internal/mdp"
	"eventspine/internal/status"
)

const defaultControl = "tcp://127.0.0.1:5562"

func statusCommand() *cobra.Command {
	var control, dir string
	var timeout time.Duration
	var asJSON bool
	var keys curveFlags
	c := &cobra.Command{
		Use:   "status",
		Short: "Print which services are alive, since when, what waits in them and how much they do",
		Long: "Ask the control plane in the proxy who is there, and each service how it is. Services register there when\n" +
			"ZMQ_CONTROL names its endpoint. One that went less than an hour ago is shown as gone.",
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := readLocal(dir)
			if err != nil {
				return err
			}
			control = cmp.Or(control, l.Control, defaultControl)
			curve, err := keys.options(l)
			if err != nil {
				return err
			}
			o := mdp.ClientOptions{Endpoints: strings.Split(control, ","), Timeout: timeout, Retries: 1, Curve: curve}
			reports, err := status.Survey(c.Context(), o)
			if err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(c.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(reports)
			}
			return statusTable(c.OutOrStdout(), reports, time.Now())
		},
	}
	c.Flags().StringVar(&control, "control", os.Getenv("ZMQ_CONTROL"), "endpoints of the control plane, separated by commas (ZMQ_CONTROL)")
	c.Flags().DurationVar(&timeout, "timeout", 2*time.Second, "how long one try may take; there are two")
	c.Flags().BoolVar(&asJSON, "json", false, "print a JSON array with every figure")
	dirFlag(c, &dir)
	keys.flags(c)
	return c
}

func statusTable(w io.Writer, reports []status.Report, now time.Time) error {
	if len(reports) == 0 {
		_, err := fmt.Fprintln(w, "no service is registered; each needs ZMQ_CONTROL with the control plane's endpoint")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "SERVICE\tINSTANCE\tSTATE\tSINCE\tVERSION\tWAITING\tPER SECOND") // tabwriter keeps an error for Flush
	for _, r := range reports {
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", r.Service, r.Instance, state(r), details(r, now))
	}
	return t.Flush()
}

func state(r status.Report) string {
	if r.Processes > 1 {
		return fmt.Sprintf("%s (%d processes of this name)", r.State, r.Processes)
	}
	return r.State
}

// details are the columns from SINCE on.
func details(r status.Report, now time.Time) string {
	switch {
	case r.State == status.Gone:
		return ago(r.Seen, now) + " ago\t\t\t"
	case r.Status == nil:
		return "\t\t\t" + r.Error
	}
	s := r.Status
	since := fmt.Sprintf("%s (%s)", s.Since.In(now.Location()).Format(time.DateTime), ago(s.Since, now))
	return strings.Join([]string{since, s.Version, figures(s.Queues, "%s %.0f"), figures(s.Rates, "%s %.1f")}, "\t")
}

func ago(at, now time.Time) string { return max(now.Sub(at), 0).Round(time.Second).String() }

const figuresShown = 3

// figures lists the largest of those that are not zero.
func figures(all map[string]float64, format string) string {
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(all)), func(n string) bool { return all[n] == 0 })
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(all[b], all[a]) })
	if len(names) == 0 {
		return "-"
	}
	shown := make([]string, 0, figuresShown)
	for _, n := range names[:min(len(names), figuresShown)] {
		shown = append(shown, fmt.Sprintf(format, n, all[n]))
	}
	return strings.Join(shown, ", ")
}
