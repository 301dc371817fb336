package worker

import (
	"cmp"
	"time"

	"eventspine/internal/event"
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

// acker answers numbered units. For one goroutine.
type acker struct {
	publish func(topic string, body []byte)
	m       *metrics
	naks    map[nakKey]*nak
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

func newAcker(publish func(topic string, body []byte), m *metrics) *acker {
	return &acker{publish: publish, m: m, naks: map[nakKey]*nak{}}
}

// answer publishes what became of the units of an applied plan: one answer for those of a stream
// and round, and one more for each whose sender waits for the seqs.
func (a *acker) answer(p *plan, now time.Time) {
	var out []*pending
	merged := map[ingest.Numbered]*pending{} // by what a round's headers have in common
	for i := range p.replies {
		r := &p.replies[i]
		next := pending{Ack: r.ack(), reply: r, asked: r.question}
		if len(next.Seqs) > 0 {
			out = append(out, &next)
			continue
		}
		key := ingest.Numbered{Source: r.to.Source, Generation: r.to.Generation, Partition: r.to.Partition, Round: r.to.Round}
		before := merged[key]
		if before == nil {
			merged[key] = &next
			out = append(out, &next)
			continue
		}
		next.Nak, next.asked, next.First = next.Nak || before.Nak, next.asked || before.asked, cmp.Or(next.First, before.First)
		*before = next
	}
	var buf []byte
	for _, o := range out {
		if o.Nak {
			a.m.gaps.Inc()
			if !a.mayRefuse(nakKey{o.reply.run.Partition, o.reply.run.Source}, o.Last, now) && !o.asked {
				continue
			}
		}
		buf = o.Append(buf[:0])
		a.publish(event.TopicAck+o.reply.to.Source, buf)
		a.m.acks.Inc()
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
