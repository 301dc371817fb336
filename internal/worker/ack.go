package worker

import (
	"cmp"
	"sync"
	"time"

	"eventspine/internal/event"
	"eventspine/internal/fanout"
	"eventspine/internal/ingest"
)

// Refusals of one stream that stays where it is are answered less and less often, so that a
// sender that cannot do better does not send the same again and again at full speed. Its
// questions are always answered.
const (
	minNakWait = 50 * time.Millisecond
	maxNakWait = time.Second
	maxNaks    = 10_000 // streams remembered
)

// ackEvery is how long an answer that nobody waits for may wait for others, which go with it: senders keep
// what is not answered, and have many batches under way.
const ackEvery = 20 * time.Millisecond

// acker answers numbered units. Safe for concurrent use.
type acker struct {
	publish func(all ...fanout.Message)
	m       *metrics
	naks    map[nakKey]*nak
	every   time.Duration // 0: answers do not wait

	mu      sync.Mutex
	waiting map[ingest.Numbered]*pending // by what a round's headers have in common
	order   []*pending                   // the same, oldest first
	timer   *time.Timer                  // runs while there are any
}

// nakKey names a stream.
type nakKey struct {
	partition int
	source    string
}

// nak is the last refusal of a stream.
type nak struct {
	last uint64 // where it stood
	at   time.Time
	wait time.Duration // before the next one for the same place
}

func newAcker(publish func(all ...fanout.Message), every time.Duration, m *metrics) *acker {
	return &acker{publish: publish, m: m, naks: map[nakKey]*nak{}, every: every, waiting: map[ingest.Numbered]*pending{}}
}

// answer publishes what became of the units of an applied plan: one answer for those of a stream
// and round, and one more for each whose sender waits for the seqs. All of them go at once where one is a
// refusal, answers a question or is waited for; otherwise within the time that answers may wait.
func (a *acker) answer(p *plan, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	urgent := a.every == 0
	for i := range p.replies {
		r := &p.replies[i]
		next := pending{Ack: r.ack(), reply: r, asked: r.question}
		if len(next.Seqs) > 0 {
			a.order, urgent = append(a.order, &next), true
			continue
		}
		urgent = urgent || next.Nak || next.asked
		key := ingest.Numbered{Source: r.to.Source, Generation: r.to.Generation, Partition: r.to.Partition, Round: r.to.Round}
		before := a.waiting[key]
		if before == nil {
			a.waiting[key] = &next
			a.order = append(a.order, &next)
			continue
		}
		next.Nak, next.asked, next.First = next.Nak || before.Nak, next.asked || before.asked, cmp.Or(next.First, before.First)
		*before = next
	}
	switch {
	case urgent:
		a.flush(now)
	case a.timer == nil && len(a.order) > 0:
		a.timer = time.AfterFunc(a.every, a.end)
	}
}

// end publishes what waits.
func (a *acker) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.flush(time.Now())
}

// flush is end with mu held.
func (a *acker) flush(now time.Time) {
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
	var out []fanout.Message
	for _, o := range a.order {
		if o.Nak {
			a.m.gaps.Inc()
			if !a.mayRefuse(nakKey{o.reply.run.Partition, o.reply.run.Source}, o.Last, now) && !o.asked {
				continue
			}
		}
		out = append(out, fanout.Message{Topic: event.TopicAck + o.reply.to.Source, Body: o.Append(nil)})
	}
	a.order = nil
	clear(a.waiting)
	if len(out) > 0 {
		a.m.acks.Add(float64(len(out)))
		a.publish(out...)
	}
}

// pending is an answer that other units may still be merged into.
type pending struct {
	ingest.Ack
	reply *reply
	asked bool // one of its units is a question
}

// ack is the answer to one unit.
func (r *reply) ack() ingest.Ack {
	ack := ingest.Ack{Generation: r.to.Generation, Partition: r.to.Partition, Round: r.to.Round,
		Last: r.run.Upto, Epoch: r.run.Epoch, Nak: r.run.Gap && !r.question}
	if r.question {
		ack.First = r.to.First
	}
	if r.slots == nil || r.run.Gap {
		return ack
	}
	ack.First, ack.Seqs = r.to.First, make([]uint64, len(r.slots))
	for i, slot := range r.slots {
		if slot >= 0 {
			ack.Seqs[i] = r.run.Stored[slot].Seq
		}
	}
	return ack
}

// mayRefuse reports whether it is time to tell a stream again that it left a gap after last.
func (a *acker) mayRefuse(k nakKey, last uint64, now time.Time) bool {
	n := a.naks[k]
	if n == nil || n.last != last {
		if len(a.naks) >= maxNaks {
			clear(a.naks)
		}
		a.naks[k] = &nak{last, now, minNakWait}
		return true
	}
	if now.Sub(n.at) < n.wait {
		return false
	}
	n.at, n.wait = now, min(2*n.wait, maxNakWait)
	return true
}
