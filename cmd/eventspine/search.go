package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"
)

func searchCommand() *cobra.Command {
	var t target
	var typ, user string
	var size int
	c := &cobra.Command{
		Use:   "search [WORDS]",
		Short: "Find events in the index, newest first, one JSON event a line",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := t.fill("dev", "emit", "admin"); err != nil {
				return err
			}
			q := url.Values{"size": {strconv.Itoa(size)}}
			for name, value := range map[string]string{"type": typ, "userId": user} {
				if value != "" {
					q.Set(name, value)
				}
			}
			if len(args) > 0 {
				q.Set("q", args[0])
			}
			r, err := http.NewRequestWithContext(c.Context(), http.MethodGet, t.api+"/api/search?"+q.Encode(), nil)
			if err != nil {
				return usage(err)
			}
			return printFound(c, &t, r)
		},
	}
	t.flags(c)
	c.Flags().StringVar(&typ, "type", "", "only this type, or all below it: notification.*")
	c.Flags().StringVar(&user, "user", "", "only this user's events")
	c.Flags().IntVar(&size, "size", 20, "how many events at most")
	return c
}

func printFound(c *cobra.Command, t *target, r *http.Request) error {
	a, err := t.request(r)
	if err != nil {
		return err
	}
	if a.status != http.StatusOK {
		return a.refusal()
	}
	var page struct {
		Total  int64             `json:"total"`
		Events []json.RawMessage `json:"events"`
	}
	if err := json.Unmarshal(a.body, &page); err != nil {
		return fmt.Errorf("search: %w", err)
	}
	for _, e := range page.Events {
		if _, err := fmt.Fprintf(c.OutOrStdout(), "%s\n", e); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(c.ErrOrStderr(), "%d of %d events\n", len(page.Events), page.Total)
	return err
}
