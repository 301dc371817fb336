package bridge

import (
	"sync/atomic"

	"eventspine/internal/bridge/replay"
	"eventspine/internal/event"
	"eventspine/internal/fanout"
	"eventspine/internal/quiet"
	"eventspine/internal/socketio/hub"
)

// users is where events go: hub.Hub.
type users interface {
	ToUser(user, name string, payload []byte, at hub.Position) int
	ToAll(name string, payload []byte, at hub.Position) int
}

// deliverer brings an event to the connections it is for. For one goroutine.
type deliverer struct {
	users   users
	only    map[string]bool // the categories to deliver; nil: what comes is of no other
	taken   atomic.Uint64   // events
	replays *replay.Replayer
	all     uint64 // the newest event for everybody; 0: not known yet
	m       *metrics
	log     *quiet.Logger
}

// deliver never waits. The event's bytes must not be changed afterwards. An event that was stored
// again because Redis had lost it is not new to browsers: sync gives it to who asks.
func (d *deliverer) deliver(it fanout.Item) {
	if it.Seq == 0 { // a reserved topic
		return
	}
	d.m.received.Inc()
	d.taken.Add(1)
	e, err := event.ParseStored(it.Body)
	switch {
	case err != nil:
		d.m.malformed.Inc()
		d.log.Warn("skipped a message that is no stored event", "error", err, "bytes", len(it.Body))
		return
	case e.Redelivered:
		d.m.redelivered.Inc()
		return
	case d.only != nil && !d.only[e.Category()]:
		return
	}
	d.replays.Delivered(it.Partition, it.Seq)
	n := 0
	switch e.UserID {
	case "": // for the index only
	case event.Everybody:
		n = d.users.ToAll(e.Category(), e.Raw, replay.Offset(it.Position, d.all, true))
		d.all = it.Seq
	default:
		n = d.users.ToUser(e.UserID, e.Category(), e.Raw, replay.Offset(it.Position, d.all, false))
	}
	if n == 0 {
		d.m.nobody.Inc()
	}
	d.m.queued.Add(float64(n))
}
