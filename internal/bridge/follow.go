package bridge

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/event"
	"eventspine/internal/fanout"
	"eventspine/internal/fanout/byuser"
	"eventspine/internal/keyring"
	"eventspine/internal/zmq"
)

// What a bridge subscribes to.
const (
	subscribeAll   = "all"
	subscribeUsers = "users"
)

// awaitTime is how long a connection that asks for what it missed waits until its user's events are
// followed. Without the proxies it goes on then, and its events come when they are back; without Redis it
// is asked to come again.
const awaitTime = 2 * time.Second

// follower hands out events in order and without gaps: fanout.Follower or byuser.Follower.
type follower interface {
	Recv(ctx context.Context) (fanout.Item, error)
	Ready() error
	Close(ctx context.Context) error
}

// follow takes up the deliverable events, from where the journal ends now, or those of the users
// that are connected, from when they are.
func (d *Deps) follow(c *Config, keys *keyring.Ring, reg prometheus.Registerer) (err error) {
	d.feed, err = fanout.NewSubscriber(fanout.SubscriberOptions{Endpoints: c.XPub, Topics: c.topics(),
		ZMQ: zmq.Options{Curve: keys.Client(), Monitor: zmq.LogMonitor(c.Log)}, Log: c.Log, Metrics: reg})
	if err != nil {
		return err
	}
	if c.Subscribe == subscribeUsers {
		d.byUser, err = byuser.New(byuser.Options{Feed: d.feed, Journal: d.journal, Partitions: c.Partitions, Window: c.ReplayWindow, Log: c.Log, Metrics: reg})
		if err == nil {
			d.events = d.byUser
		}
		return err
	}
	all, err := fanout.NewFollower(fanout.FollowerOptions{Subscriber: d.feed, Journal: d.journal, Partitions: c.Partitions, Feed: true, Log: c.Log, Metrics: reg})
	if err == nil {
		d.events, d.placed = all, all.Placed()
	}
	return err
}

// followed waits until nothing is missed that is stored for the user from now on, and reports whether
// that is so. Who read the journal before would miss what is stored between that and where the bridge begins.
func (d *Deps) followed(ctx context.Context, user string) bool {
	ctx, cancel := context.WithTimeout(ctx, awaitTime)
	defer cancel()
	if d.byUser != nil {
		return d.byUser.Await(ctx, user)
	}
	select {
	case <-d.placed:
		return true
	case <-ctx.Done():
		return false
	}
}

// topics are the subscriptions: a category and its dot, so that alert does not take alerts, and
// the marks, by which a lost tail shows. Those to users come and go with them.
func (c *Config) topics() []string {
	if c.Subscribe == subscribeUsers {
		return []string{event.TopicMark}
	}
	out := make([]string, 0, len(c.Categories)+1)
	for _, name := range c.Categories {
		out = append(out, name+".")
	}
	return append(out, event.TopicMark)
}

// watched is told by the hub who comes and who goes. It must not wait.
func (d *Deps) watched(user string, online bool) {
	d.watch(user, online)
	if d.byUser != nil {
		d.byUser.Watch(user, online)
	}
}
