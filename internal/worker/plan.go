package worker

import (
	"strconv"

	"eventspine/internal/event"
	"eventspine/internal/ingest"
	"eventspine/internal/journal"
)

// plan is what one batch of units wants from the journal.
type plan struct {
	loose     []journal.Entry // of no numbered unit
	runs      []*run          // in the order of their units
	replies   []reply         // by numbered unit
	misplaced int             // events of numbered units that belong to another partition

	partitions int
	open       map[string]*run // the last run of each stream
	current    *run            // of the unit that is being added; nil: not numbered
}

// run is one call to the journal for a numbered stream: one unit, or several that follow each
// other without a gap. What its events became for other partitions is stored before it.
type run struct {
	journal.Batch
	elsewhere []journal.Entry
}

// reply is what a numbered unit has to be answered.
type reply struct {
	to       *ingest.Numbered
	question bool
	run      *run
	slots    []int // with flag Wait, by record: index of its entry in the run, -1 without one
}

func newPlan(partitions int, units []unit, size int) *plan {
	p := &plan{partitions: partitions, open: map[string]*run{}}
	for i := range units {
		if units[i].numbered == nil {
			p.loose = make([]journal.Entry, 0, size)
			break
		}
	}
	return p
}

func (u *unit) redelivered() bool {
	return u.numbered != nil && u.numbered.Flags&ingest.Redelivered != 0
}

// begin goes on to the next unit. What is added then belongs to it.
func (p *plan) begin(u *unit) {
	h := u.numbered
	if p.current = nil; h == nil {
		return
	}
	partition, source := stream(h, p.partitions)
	key := strconv.Itoa(partition) + " " + source
	last := p.open[key]
	question := u.last < h.First
	switch {
	case question && last != nil: // the answer is where the stream stands after that run
	case !question && last != nil && last.Last >= last.First && h.First == last.Last+1 && h.Skip == 0 && h.Flags&ingest.Start == 0:
		last.Last = u.last
	default:
		last = &run{Batch: journal.Batch{Partition: partition, Source: source, First: h.First, Last: u.last, Skip: h.Skip, Start: h.Flags&ingest.Start != 0}}
		last.Entries = make([]journal.Entry, 0, len(u.events))
		p.open[key] = last
		p.runs = append(p.runs, last)
	}
	p.current = last
	r := reply{to: h, question: question, run: last}
	if h.Flags&ingest.Wait != 0 && !question {
		r.slots = make([]int, u.last-h.First+1)
		for i := range r.slots {
			r.slots[i] = -1
		}
	}
	p.replies = append(p.replies, r)
}

// stream names what the numbers of a header count, and the partition that keeps their state. A
// header for a partition that does not exist here, as its sender has another partition count,
// gets a place all the same: what the sender holds must not be stuck.
func stream(h *ingest.Numbered, partitions int) (partition int, source string) {
	source = h.Source + "/" + strconv.FormatUint(h.Generation, 10)
	if h.Partition < partitions {
		return h.Partition, source
	}
	return h.Partition % partitions, source + "/" + strconv.Itoa(h.Partition)
}

// add puts an event of the current unit where it goes.
func (p *plan) add(e journal.Entry) {
	if p.current == nil {
		p.loose = append(p.loose, e)
		return
	}
	if !p.belongs(&e) {
		p.misplaced++
		p.current.elsewhere = append(p.current.elsewhere, e)
		return
	}
	if r := &p.replies[len(p.replies)-1]; r.slots != nil {
		r.slots[e.Number-r.to.First] = len(p.current.Entries)
	}
	p.current.Entries = append(p.current.Entries, e)
}

// derived puts an event that a rule made of one of the current unit where it goes.
func (p *plan) derived(e journal.Entry) {
	switch {
	case p.current == nil:
		p.loose = append(p.loose, e)
	case p.belongs(&e):
		p.current.Entries = append(p.current.Entries, e)
	default:
		p.current.elsewhere = append(p.current.elsewhere, e)
	}
}

func (p *plan) belongs(e *journal.Entry) bool {
	return event.Partition(e.Event.UserID, e.Event.ID, p.partitions) == p.current.Partition
}

// events is how many journal entries the plan has.
func (p *plan) events() int {
	n := len(p.loose)
	for _, r := range p.runs {
		n += len(r.Entries) + len(r.elsewhere)
	}
	return n
}
