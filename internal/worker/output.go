package worker

import (
	"context"
	"errors"
	"strconv"
	"time"

	"eventspine/internal/event"
	"eventspine/internal/fanout"
	"eventspine/internal/fault"
	"eventspine/internal/journal"
	"eventspine/internal/telemetry"
	"eventspine/internal/zmq"
)

// outputs are all the ways out of the worker. They never wait.
type outputs struct {
	proxies *fanout.Publisher
	push    *zmq.Socket // nil: not configured
	pub     *zmq.Socket // nil: not configured
	statsd  *telemetry.Statsd
	clock   func() int64 // milliseconds
	m       *metrics
}

// publish sends stored events everywhere they go.
func (o *outputs) publish(all []fresh) {
	messages := make([]fanout.Message, len(all))
	for i, f := range all {
		messages[i] = fanout.Message{Topic: event.Topic(f.entry.Event.Type, f.entry.Event.UserID), Body: f.stored.Raw}
	}
	o.proxies.PublishAll(messages...)
	now := o.clock()
	for i, f := range all {
		o.direct(messages[i])
		taken := max(now-f.entry.Event.Timestamp, 0)
		o.m.latency.Observe(float64(taken) / 1000)
		o.statsd.Latency(time.Duration(taken) * time.Millisecond)
	}
}

// direct sends one stored event to the optional outputs.
func (o *outputs) direct(m fanout.Message) {
	if o.pub != nil {
		frame := append(append(make([]byte, 0, len(m.Topic)+1+len(m.Body)), m.Topic...), ' ')
		_ = o.pub.TrySend(zmq.Msg{append(frame, m.Body...)}) // the socket counts what it drops
	}
	if o.push != nil && o.push.TrySend(zmq.Msg{m.Body}) != nil {
		o.m.outputDropped.Inc()
	}
}

// mark tells the subscribers of a partition its newest number, so that a lost tail is noticed,
// and that of its newest deliverable event, for those that want no others.
func (o *outputs) mark(partition int, h journal.Head) {
	body := strconv.AppendUint([]byte(`{"seq":`), h.Seq, 10)
	body = strconv.AppendUint(append(body, `,"epoch":`...), h.Epoch, 10)
	body = strconv.AppendUint(append(body, `,"feed":`...), h.Feed, 10)
	o.proxies.Publish(event.TopicMark+strconv.Itoa(partition), append(body, '}'))
}

// open binds the optional outputs.
func (o *outputs) open(ctx context.Context, c *Config, keys *zmq.CurveOptions) error {
	for _, out := range []struct {
		setting, endpoint string
		typ               zmq.Type
		socket            **zmq.Socket
	}{{"ZMQ_OUTPUT_PUSH_BIND", c.PushBind, zmq.Push, &o.push}, {"ZMQ_OUTPUT_PUB_BIND", c.PubBind, zmq.Pub, &o.pub}} {
		if out.endpoint == "" {
			continue
		}
		*out.socket = zmq.New(out.typ, zmq.Options{SndHWM: 100_000, Curve: keys, Monitor: zmq.LogMonitor(c.Log)})
		if _, err := (*out.socket).Bind(ctx, out.endpoint); err != nil {
			return fault.E("bind "+out.setting, fault.KindOf(err), err)
		}
	}
	return nil
}

// close sends what is queued and closes. The error says what was dropped.
func (o *outputs) close(ctx context.Context) error {
	var errs []error
	if o.proxies != nil {
		errs = append(errs, o.proxies.Close(ctx))
	}
	for _, s := range []*zmq.Socket{o.push, o.pub} {
		if s != nil {
			errs = append(errs, s.Close(ctx))
		}
	}
	return errors.Join(append(errs, o.statsd.Close())...)
}
