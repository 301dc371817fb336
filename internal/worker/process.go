package worker

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/ingest"
	"eventspine/internal/journal"
	"eventspine/internal/quiet"
	"eventspine/internal/rules"
)

// users gives the metadata of those of the users that have some, as JSON objects.
type users interface {
	Many(ctx context.Context, ids []string) (map[string]json.RawMessage, error)
}

// processor is the part of the pipeline that needs no socket: validate, enrich, filter,
// transform. read and Process are each for one goroutine at a time.
type processor struct {
	users       users
	rules       atomic.Pointer[rules.Set] // in force; a batch has one set from its beginning to its end
	partitions  int
	deliverable map[string]bool
	now         func() time.Time
	log         *quiet.Logger
	m           *metrics
}

// read validates what a producer sent and completes it. A malformed event is counted and
// logged without its content, and does not touch its neighbours.
func (p *processor) read(b ingest.Batch) unit {
	now := p.now()
	u := unit{numbered: b.Numbered, events: make([]event.Event, 0, len(b.Events))}
	if u.numbered != nil {
		u.last = b.Numbered.First + uint64(len(b.Events)) - 1
		u.numbers = make([]uint64, 0, len(b.Events))
	}
	for i, raw := range b.Events {
		e, err := event.Parse(raw)
		if err != nil {
			p.m.malformed.WithLabelValues(fault.KindOf(err).String()).Inc()
			p.log.Warn("malformed event", "source", b.Source, "bytes", len(raw), "reason", reason(err))
			continue
		}
		e.Complete(now, b.Source)
		u.events = append(u.events, e)
		if u.numbered != nil {
			u.numbers = append(u.numbers, b.Numbered.First+uint64(i))
		}
	}
	return u
}

// reason says what is wrong with an event without a word of its content.
func reason(err error) string {
	fields := fault.FieldsOf(err)
	if len(fields) == 0 {
		if fault.KindOf(err) == fault.TooLarge {
			return "too large"
		}
		return "not a JSON object"
	}
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.Name + " " + f.Reason
	}
	return strings.Join(names, "; ")
}

// Process turns valid events into journal entries: repeats within the batch and what the rules
// drop are left out, derived events follow their parents. An error means that metadata of
// users could not be read; nothing was counted, and the call may be repeated.
func (p *processor) Process(ctx context.Context, units []unit) (*plan, error) {
	given := make([][]event.Event, len(units))
	size := 0
	for i := range units {
		given[i] = units[i].events
		size += len(given[i])
	}
	known, err := p.lookUp(ctx, nil, given...)
	if err != nil {
		return nil, err
	}
	s := step{p: p, rules: p.rules.Load(), known: known, seen: make(map[identity]bool, size)}
	s.results = make([]result, 0, size)
	var derived []event.Event
	for i := range units {
		u := &units[i]
		for k := range u.events {
			e := &u.events[k]
			if u.numbered == nil && s.repeated(e) {
				continue // of a numbered one the journal knows best whether the first is stored
			}
			r := result{Result: s.rules.Apply(*e, known[e.UserID], false), unit: i}
			if u.numbered != nil {
				r.number = u.numbers[k]
			}
			derived = append(derived, r.Derived...)
			s.results = append(s.results, r)
		}
	}
	if len(derived) > 0 {
		if s.known, err = p.lookUp(ctx, known, derived); err != nil {
			return nil, err
		}
	}
	return s.plan(units, size+len(derived)), nil
}

// lookUp adds to known what is stored about the addressees that are not in it.
func (p *processor) lookUp(ctx context.Context, known map[string]json.RawMessage, groups ...[]event.Event) (map[string]json.RawMessage, error) {
	asked := map[string]bool{}
	var ids []string
	for _, events := range groups {
		for i := range events {
			id := events[i].UserID
			if _, have := known[id]; have || id == "" || id == event.Everybody || asked[id] {
				continue
			}
			asked[id] = true
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return known, nil
	}
	found, err := p.users.Many(ctx, ids)
	if err != nil && !fault.Retryable(err) {
		found, err = p.lookUpEach(ctx, ids)
	}
	if err != nil {
		return nil, err
	}
	if known == nil {
		return found, nil
	}
	all := make(map[string]json.RawMessage, len(known)+len(found))
	for _, m := range []map[string]json.RawMessage{known, found} {
		for id, user := range m {
			all[id] = user
		}
	}
	return all, nil
}

// lookUpEach asks for one user at a time, so that one whose stored metadata is unreadable does
// not hold up the others: that one's events go on without it.
func (p *processor) lookUpEach(ctx context.Context, ids []string) (map[string]json.RawMessage, error) {
	all := make(map[string]json.RawMessage, len(ids))
	for _, id := range ids {
		found, err := p.users.Many(ctx, []string{id})
		switch {
		case err == nil:
			if user, ok := found[id]; ok {
				all[id] = user
			}
		case fault.Retryable(err):
			return nil, err
		default:
			p.m.unreadable.Inc()
			p.log.Warn("metadata of a user cannot be read", "error", err.Error())
		}
	}
	return all, nil
}

// identity is what makes an event a repeat: its id, within its partition.
type identity struct {
	partition int
	id        string
}

// step is one batch on its way.
type step struct {
	p       *processor
	rules   *rules.Set
	known   map[string]json.RawMessage
	seen    map[identity]bool
	repeats int
	results []result
}

// result is what the rules made of one event, and where it came from.
type result struct {
	rules.Result
	unit   int    // its index
	number uint64 // in a numbered unit
}

func (s *step) repeated(e *event.Event) bool {
	id := identity{event.Partition(e.UserID, e.ID, s.p.partitions), e.ID}
	if s.seen[id] {
		s.repeats++
		return true
	}
	s.seen[id] = true
	return false
}

// plan counts what the rules did and finishes what goes on. It cannot fail.
func (s *step) plan(units []unit, size int) *plan {
	out := newPlan(s.p.partitions, units, size)
	now := s.p.now().UnixMilli()
	next := 0
	for i := range units {
		u := &units[i]
		out.begin(u)
		for ; next < len(s.results) && s.results[next].unit == i; next++ {
			r := &s.results[next]
			if s.goesOn(&r.Result) {
				out.add(s.finish(r.Event, now, u.redelivered(), r.number))
			}
			for _, d := range r.Derived {
				if u.numbered == nil && s.repeated(&d) {
					continue
				}
				dr := s.rules.Apply(d, s.known[d.UserID], true)
				if s.goesOn(&dr) {
					out.derived(s.finish(dr.Event, now, u.redelivered(), r.number))
				}
			}
		}
	}
	s.p.m.repeats.WithLabelValues("batch").Add(float64(s.repeats))
	if out.misplaced > 0 {
		s.p.m.misplaced.Add(float64(out.misplaced))
		s.p.log.Error("events came under another partition than theirs; they are stored where they belong", "events", out.misplaced,
			"fix", "give all services the same PARTITIONS")
	}
	return out
}

// goesOn counts what the rules did to an event and reports whether it was kept.
func (s *step) goesOn(r *rules.Result) bool {
	for _, f := range r.Failures {
		s.p.m.failures.WithLabelValues(f.Rule).Inc()
		s.p.log.Warn("rule could not be evaluated", "rule", f.Rule, "type", r.Event.Type, "reason", f.Err.Error())
	}
	s.p.m.derived.Add(float64(len(r.Derived)))
	if r.Dropped != "" {
		s.p.m.filtered.WithLabelValues(r.Dropped).Inc()
		return false
	}
	return true
}

// finish adds what eventspine knows about the event, but for its place in the journal.
func (s *step) finish(e event.Event, now int64, redelivered bool, number uint64) journal.Entry {
	user := s.known[e.UserID]
	extra := make([]byte, 0, len(user)+116)
	if len(user) > 0 {
		extra = append(append(extra, `,"user":`...), user...)
	}
	extra = strconv.AppendInt(append(extra, `,"processed":true,"processedAt":`...), now, 10)
	extra = strconv.AppendInt(append(extra, `,"latencyMs":`...), max(now-e.Timestamp, 0), 10)
	if redelivered {
		e.Redelivered, extra = true, event.AppendRedelivered(extra)
	}
	e.Raw = event.Splice(e.Raw, extra)
	return journal.Entry{Event: e, Deliverable: e.UserID != "" && s.p.deliverable[e.Category()], Number: number}
}
