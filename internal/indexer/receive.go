package indexer

import (
	"context"
	"time"

	"eventspine/internal/checkpoint"
	"eventspine/internal/event"
	"eventspine/internal/fanout"
	"eventspine/internal/fault"
	"eventspine/internal/quiet"
)

// source is where events come from: every partition in order and without gaps.
type source interface {
	Recv(ctx context.Context) (fanout.Item, error)
}

// intake puts what comes into the backlog.
type intake struct {
	backlog *backlog
	last    checkpoint.Set // by partition, what was put last
	m       *metrics
	log     *quiet.Logger
}

// receive puts every event from src into the backlog until ctx ends, and returns the reason it
// ended. Reserved topics are not events; what is malformed is counted and logged. An event that
// was received waits for room until keep ends; one that finds none stays in the journal, above
// the checkpoint.
func (in *intake) receive(ctx, keep context.Context, src source) error {
	for {
		it, err := src.Recv(ctx)
		if err != nil {
			return err
		}
		if it.Seq == 0 {
			continue
		}
		e, err := parse(it.Body)
		if err != nil {
			in.m.malformed.Inc()
			in.log.Warn("malformed event", "reason", err.Error(), "bytes", len(it.Body), "partition", it.Partition, "seq", it.Seq)
			continue
		}
		in.m.received.Inc()
		prev := in.last[e.Partition].Seq
		in.last.Forward(checkpoint.Set{e.Partition: {Seq: e.Seq, Epoch: e.Epoch}})
		if err := in.backlog.put(keep, item{event: e, prev: prev, at: time.Now()}); err != nil {
			return err
		}
	}
}

func parse(body []byte) (event.Event, error) {
	e, err := event.ParseStored(body)
	if err == nil && (e.ID == "" || e.Timestamp == 0) {
		err = fault.Errorf("parse stored event", fault.Corrupt, "id or timestamp is missing")
	}
	return e, err
}

// untilIdle is a source that ends after a moment without an event.
type untilIdle struct{ source }

// Recv waits for the next event for idleTime at most.
func (u untilIdle) Recv(ctx context.Context) (fanout.Item, error) {
	ctx, cancel := context.WithTimeout(ctx, idleTime)
	defer cancel()
	return u.source.Recv(ctx)
}
