package bridge

import (
	"context"
	"encoding/json"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/event"
	"eventspine/internal/fanout"
	"eventspine/internal/fanout/byuser"
	"eventspine/internal/keyring"
	"eventspine/internal/socketio"
	"eventspine/internal/zmq"
)

// What a bridge subscribes to.
const (
	subscribeAll   = "all"
	subscribeUsers = "users"
)

// awaitTime is how long a connection waits until its user's events are followed. Then it goes on
// without: the proxies are away, and its events come when they are back; or Redis is.
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

// recover gives a connection what it missed, as soon as nothing that is stored from now on is.
func (d *Deps) recover(ctx context.Context, user string, asked socketio.Recovery) socketio.Recovered {
	wait, cancel := context.WithTimeout(ctx, awaitTime)
	if d.byUser != nil {
		d.byUser.Await(wait, user)
	} else {
		d.awaitPlace(wait)
	}
	cancel()
	return d.replays.Recover(ctx, user, asked)
}

// sync gives a connection what it missed, as recover does. One whose bridge has just begun would
// otherwise miss what is stored between its sync and where the bridge begins to follow.
func (d *Deps) sync(ctx context.Context, user string, since json.RawMessage) socketio.Synced {
	if d.byUser == nil {
		wait, cancel := context.WithTimeout(ctx, awaitTime)
		d.awaitPlace(wait)
		cancel()
	}
	return d.replays.Sync(ctx, user, since)
}

// awaitPlace waits until it is known where every partition begins.
func (d *Deps) awaitPlace(ctx context.Context) {
	select {
	case <-d.placed:
	case <-ctx.Done():
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
