package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"eventspine/internal/fanout"
	"eventspine/internal/socketio/client"
	"eventspine/internal/zmq"
)

func tailCommand() *cobra.Command {
	var t target
	var f follow
	var keys curveFlags
	c := &cobra.Command{
		Use:   "tail (--user ID | --all)",
		Short: "Follow events as they come, one JSON event a line",
		Long: "Follow a user's events as a browser gets them, over Socket.IO, or any events as other programs get\n" +
			"them, over ZeroMQ. --all needs ZeroMQ: Socket.IO gives a client only what its own user may see.",
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			if err := t.fill(f.user); err != nil && f.via == viaSocketIO {
				return err
			}
			if f.via == viaZMQ {
				l, err := readLocal(t.dir)
				if err != nil {
					return err
				}
				if f.curve, err = keys.options(l); err != nil {
					return err
				}
			}
			f.out, f.notes = c.OutOrStdout(), c.ErrOrStderr()
			return f.run(c.Context(), &t)
		},
	}
	t.flags(c)
	keys.flags(c)
	c.Flags().StringVar(&f.user, "user", "", "follow this user's events")
	c.Flags().BoolVar(&f.all, "all", false, "follow everybody's events")
	c.Flags().StringVar(&f.via, "via", "", "socketio (default for --user) or zmq (default for --all)")
	c.Flags().StringVar(&f.topic, "topic", "", "with zmq: only topics that begin like this, such as alert.")
	c.Flags().IntVar(&f.count, "count", 0, "end after so many events; 0: at Ctrl-C")
	return c
}

const (
	viaSocketIO = "socketio"
	viaZMQ      = "zmq"
)

// follow prints events until it has count of them or ctx ends.
type follow struct {
	user  string
	all   bool
	via   string
	topic string
	count int
	curve *zmq.CurveOptions // nil: plain
	out   io.Writer
	notes io.Writer
}

func (f *follow) check() error {
	if f.via == "" {
		f.via = viaSocketIO
		if f.all {
			f.via = viaZMQ
		}
	}
	switch {
	case f.all == (f.user != ""):
		return usage(errors.New("give either --user or --all"))
	case f.via != viaSocketIO && f.via != viaZMQ:
		return usage(fmt.Errorf("--via is socketio or zmq, not %q", f.via))
	case f.all && f.via == viaSocketIO:
		return usage(errors.New("--all needs --via zmq: Socket.IO gives a client only its own user's events"))
	case f.topic != "" && f.via == viaSocketIO:
		return usage(errors.New("--topic needs --via zmq"))
	}
	return nil
}

func (f *follow) run(ctx context.Context, t *target) error {
	var err error
	if f.via == viaSocketIO {
		err = f.socketIO(ctx, t)
	} else {
		err = f.zmq(ctx, t)
	}
	if ctx.Err() == nil {
		return err
	}
	return nil // Ctrl-C is the way to end it
}

func (f *follow) socketIO(ctx context.Context, t *target) (err error) {
	c, err := client.Dial(ctx, t.bridge, t.token, client.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	_, _ = fmt.Fprintf(f.notes, "following %s at %s\n", f.user, t.bridge)
	for n := 0; f.count == 0 || n < f.count; n++ {
		_, payload, err := c.Recv(ctx)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(f.out, "%s\n", payload); err != nil {
			return err
		}
	}
	return nil
}

func (f *follow) zmq(ctx context.Context, t *target) (err error) {
	sub, err := fanout.NewSubscriber(fanout.SubscriberOptions{
		Endpoints: []string{t.xpub},
		Topics:    []string{f.topic},
		ZMQ:       zmq.Options{Curve: f.curve},
		Log:       slog.New(slog.NewTextHandler(f.notes, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return usage(err)
	}
	defer func() { err = errors.Join(err, sub.Close(context.WithoutCancel(ctx))) }()
	if err := f.connected(ctx, sub, t.xpub); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(f.notes, "following %s\n", t.xpub)
	for n := 0; f.count == 0 || n < f.count; {
		m, err := sub.Recv(ctx)
		if err != nil {
			return err
		}
		if !f.wants(m.Topic, m.Body) {
			continue
		}
		n++
		if _, err := fmt.Fprintf(f.out, "%s\n", m.Body); err != nil {
			return err
		}
	}
	return nil
}

// connected waits for the proxy, for as long as it takes, and says so after a while.
func (f *follow) connected(ctx context.Context, sub *fanout.Subscriber, endpoint string) error {
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	long := time.After(2 * time.Second)
	for sub.Peers() == 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-long:
			_, _ = fmt.Fprintf(f.notes, "waiting for a proxy at %s\n", endpoint)
		case <-look.C:
		}
	}
	return nil
}

// wants leaves out the reserved topics and, when one user is followed, everybody else.
func (f *follow) wants(topic string, body []byte) bool {
	if topic == "" || topic[0] == '_' {
		return false
	}
	if f.user == "" {
		return true
	}
	var e struct {
		UserID string `json:"userId"`
	}
	return json.Unmarshal(body, &e) == nil && (e.UserID == f.user || e.UserID == "*")
}
