package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"eventspine/internal/doctor"
	"eventspine/internal/fault"
)

const doctorAgain = 2 * time.Second // between two looks of --wait

func doctorCommand() *cobra.Command {
	var d examination
	c := &cobra.Command{
		Use:   "doctor [SERVICE…]",
		Short: "Find what keeps the services of this machine from working, and say how to mend it",
		Long: "Look at the services of this machine: their settings, secrets, keys, addresses, ports, disks, the clock, and\n" +
			"everyone they depend on. Without a name, the units of systemd (as root, for their secrets); with names (api, worker, proxy,\n" +
			"indexer, bridge), the settings are taken from the environment. Nothing is changed. The exit code is 1 when\n" +
			"something is wrong.",
		Example: "  sudo eventspine doctor\n  eventspine doctor api --all",
		RunE: func(c *cobra.Command, args []string) error {
			d.names = args
			return d.run(c.Context(), c.OutOrStdout())
		},
	}
	c.Flags().BoolVar(&d.all, "all", false, "print what is fine, too")
	c.Flags().BoolVar(&d.json, "json", false, "print one JSON object a line, for everything")
	c.Flags().DurationVar(&d.wait, "wait", 0, "look again for so long until nothing is wrong")
	return c
}

type examination struct {
	names     []string
	all, json bool
	wait      time.Duration
}

func (d *examination) run(ctx context.Context, out io.Writer) error {
	patience, cancel := context.WithTimeout(ctx, d.wait)
	defer cancel()
	for {
		services, err := d.services(ctx)
		if err != nil {
			return usage(err)
		}
		found := doctor.Examine(ctx, services)
		wrong := doctor.Failures(found)
		if wrong == 0 || patience.Err() != nil {
			if err := d.print(out, found, len(services)); err != nil || wrong == 0 {
				return err
			}
			return fault.Errorf("", fault.Unavailable, "%d of %d looks found something wrong", wrong, len(found))
		}
		again := time.NewTimer(doctorAgain)
		select {
		case <-again.C:
		case <-patience.Done():
		}
		again.Stop()
	}
}

func (d *examination) services(ctx context.Context) (all []doctor.Service, err error) {
	for _, name := range d.names {
		s, err := doctor.Named(name, os.Environ())
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	if len(d.names) > 0 {
		return all, nil
	}
	if all, err = doctor.Units(ctx); err == nil && len(all) == 0 {
		err = fmt.Errorf("no eventspine unit is enabled on this machine; name the services whose settings are in the environment")
	}
	return all, err
}

func (d *examination) print(out io.Writer, found []doctor.Finding, services int) error {
	for _, f := range found {
		if d.json {
			if err := json.NewEncoder(out).Encode(f); err != nil {
				return err
			}
			continue
		}
		if f.Level == doctor.Fine && !d.all {
			continue
		}
		if _, err := fmt.Fprintf(out, "%-4s %s: %s\n", f.Level, f.Where, f.What); err != nil {
			return err
		}
		if f.Mend != "" {
			if _, err := fmt.Fprintf(out, "     mend: %s\n", f.Mend); err != nil {
				return err
			}
		}
	}
	if d.json {
		return nil
	}
	_, err := fmt.Fprintf(out, "%d services, %d looks, %d wrong\n", services, len(found), doctor.Failures(found))
	return err
}
