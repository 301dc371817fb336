package status

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"eventspine/internal/fault"
	"eventspine/internal/mdp"
)

const atOnce = 8 // instances asked at the same time

// The states of an instance.
const (
	Alive  = "alive"
	Silent = "silent" // registered, but it did not answer
	Gone   = "gone"
)

// Report is what a survey found out about one instance.
type Report struct {
	Service   string    `json:"service"`
	Instance  string    `json:"instance"`
	State     string    `json:"state"`
	Processes int       `json:"processes"`       // registered under this name; more than one is a mistake
	Seen      time.Time `json:"seen,omitzero"`   // of a gone one: when it was still there
	Error     string    `json:"error,omitempty"` // of a silent one: why
	Status    *Status   `json:"status,omitempty"`
}

// Survey asks a broker who is there, and each of them how it is. One that does not answer is
// in the result. Reports are ordered by service and instance. Errors are of kind Unavailable
// when no broker answers, and Corrupt when one answers nonsense.
func Survey(ctx context.Context, o mdp.ClientOptions) ([]Report, error) {
	list, err := listing(ctx, o)
	if err != nil {
		return nil, err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	reports := make([]Report, len(list))
	for i, l := range list {
		service, instance, _ := strings.Cut(l.Service, "/")
		reports[i] = Report{Service: service, Instance: instance, State: Gone, Processes: l.Workers, Seen: l.Seen}
		if l.Workers > 0 {
			g.Go(func() error { return reports[i].ask(ctx, o, l.Service) })
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(reports, func(a, b Report) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Instance, b.Instance))
	})
	return reports, nil
}

// listing gives the entries that stand for one instance each.
func listing(ctx context.Context, o mdp.ClientOptions) ([]mdp.Listing, error) {
	c, err := mdp.NewClient(o)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	m, err := c.Request(ctx, mdp.ServiceList, nil)
	if err != nil {
		return nil, err
	}
	var all []mdp.Listing
	if err := json.Unmarshal(m[0], &all); err != nil {
		return nil, fault.Errorf("control plane", fault.Corrupt, "the broker's list of services: %w", err)
	}
	return slices.DeleteFunc(all, func(l mdp.Listing) bool { return !strings.Contains(l.Service, "/") }), nil
}

// ask fills in how the instance is. Only the end of ctx is an error.
func (r *Report) ask(ctx context.Context, o mdp.ClientOptions, name string) error {
	s, err := one(ctx, o, name)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		r.State, r.Error = Silent, err.Error()
	default:
		r.State, r.Status = Alive, s
	}
	return nil
}

func one(ctx context.Context, o mdp.ClientOptions, name string) (*Status, error) {
	c, err := mdp.NewClient(o)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	m, err := c.Request(ctx, name, []byte(Request))
	if err != nil {
		return nil, err
	}
	var got struct {
		Status
		Error string `json:"error"`
	}
	if err := json.Unmarshal(m[0], &got); err != nil {
		return nil, fmt.Errorf("its answer: %w", err)
	}
	if got.Error != "" {
		return nil, errors.New(got.Error)
	}
	return &got.Status, nil
}
