package api

import (
	"context"
	"encoding/json"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"eventspine/internal/event"
	"eventspine/internal/ingest"
	"eventspine/internal/quiet"
)

// listen hands what the workers say to the outbox, until ctx ends.
func (d *Deps) listen(ctx context.Context, log *slog.Logger) {
	bad := quiet.New(log, time.Second)
	for {
		m, err := d.acks.Recv(ctx)
		if err != nil {
			return
		}
		if err := d.hear(m.Topic, m.Body); err != nil {
			bad.Warn("a worker's answer cannot be read", "topic", m.Topic, "error", err.Error())
		}
	}
}

// hear takes in one acknowledgement, or the mark of one partition.
func (d *Deps) hear(topic string, body []byte) error {
	mark, ok := strings.CutPrefix(topic, event.TopicMark)
	if !ok {
		a, err := ingest.ParseAck(body)
		if err == nil {
			d.outbox.Acknowledge(a)
		}
		return err
	}
	var head struct {
		Epoch uint64 `json:"epoch"`
	}
	if err := json.Unmarshal(body, &head); err != nil {
		return err
	}
	partition, err := strconv.Atoi(mark)
	if err == nil {
		d.outbox.Mark(partition, head.Epoch)
	}
	return err
}

// hurry asks anew for what may have been answered before anybody listened.
func (d *Deps) hurry(ctx context.Context) {
	if d.acks.Wait(ctx) == nil {
		d.outbox.Hurry()
	}
}
