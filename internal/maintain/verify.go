package maintain

import (
	"context"
	"time"

	"eventspine/internal/archive"
	"eventspine/internal/checkpoint"
	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/journal"
	"eventspine/internal/rdb"
	"eventspine/internal/retry"
)

// DefaultLag is how young an event may be to be left out of a comparison.
const DefaultLag = 5 * time.Second

const (
	readPage     = 1000     // events of the journal at once
	maxHeldBytes = 16 << 20 // of events that wait to be looked up
)

// Verifier compares the index with the journal. All fields but Checkpoint are needed.
type Verifier struct {
	Journal    *journal.Journal
	Archive    *archive.Archive
	Checkpoint *checkpoint.Store // the indexers'; nil: every event that is old enough should be in the index
	Partitions int
	Redis      rdb.Client // where Keepers note which days they deleted
}

// Request says what to compare.
type Request struct {
	Since  time.Duration // only events that were stored at most so long ago; 0: all that the journal holds
	Lag    time.Duration // and at least so long ago: younger ones are on their way
	Repair bool          // index what is missing
	Limit  int           // of missing and of repeated events that are listed; all are counted
}

// Row is the comparison of one epoch of one partition.
type Row struct {
	Partition   int    `json:"partition"`
	Epoch       uint64 `json:"epoch"`
	First       uint64 `json:"from"`
	Last        uint64 `json:"to"`
	Journal     int64  `json:"journal"`  // numbers that were compared
	Index       int64  `json:"index"`    // documents with one of these numbers
	Moved       int64  `json:"moved"`    // events whose document has the number of an earlier epoch, as they were stored again
	Dead        int64  `json:"dead"`     // events that Elasticsearch refused for good
	Expired     int64  `json:"expired"`  // events of days whose index was deleted for its age
	Missing     int64  `json:"missing"`  // events without a document
	Repaired    int64  `json:"repaired"` // of these, events that have one now
	Repeated    int64  `json:"repeated"` // documents beyond the first with the same number
	Unread      int64  `json:"unread"`   // numbers that differ and left the journal before they could be looked at
	differently int64  // documents in the blocks that were looked at more closely
	found       int64  // events of these blocks that have a document
}

// Partition is what else there is to say of a partition.
type Partition struct {
	Partition int    `json:"partition"`
	Trimmed   bool   `json:"trimmed"` // the journal no longer holds all that was asked for
	Young     uint64 `json:"young"`   // events that were stored after those compared
	Waiting   uint64 `json:"waiting"` // events that no indexer says it has brought into the index yet
}

// Missing is an event without a document.
type Missing struct {
	Partition int    `json:"partition"`
	Seq       uint64 `json:"seq"`
	Epoch     uint64 `json:"epoch"`
	ID        string `json:"id"`
	Repaired  bool   `json:"repaired"`
	Refused   string `json:"refused,omitempty"` // why Elasticsearch did not take it in the repair
}

// Repeated is a number that several documents have.
type Repeated struct {
	Partition int    `json:"partition"`
	Seq       uint64 `json:"seq"`
	Documents int64  `json:"documents"`
}

// Report is what Verify found. Sum adds up its rows.
type Report struct {
	Rows       []Row       `json:"rows"`
	Partitions []Partition `json:"partitions"`
	Missing    []Missing   `json:"missing"`
	Repeated   []Repeated  `json:"repeated"`
}

// Sum is the rows in one.
func (r *Report) Sum() (all Row) {
	for _, x := range r.Rows {
		all.Journal += x.Journal
		all.Index += x.Index
		all.Moved += x.Moved
		all.Dead += x.Dead
		all.Expired += x.Expired
		all.Missing += x.Missing
		all.Repaired += x.Repaired
		all.Repeated += x.Repeated
		all.Unread += x.Unread
	}
	return all
}

// Agrees reports whether nothing is missing that was not repaired, and nothing is there twice.
func (r *Report) Agrees() bool {
	all := r.Sum()
	return all.Missing == all.Repaired && all.Repeated == 0
}

// Verify compares every partition. It makes one request of a count for millions of events, one for
// each 50,000 of them to find repeats, and reads only blocks of 256 numbers that differ. Errors
// are of kind Unavailable or Overloaded while Redis or Elasticsearch is, and Corrupt.
func (v *Verifier) Verify(ctx context.Context, r Request) (*Report, error) {
	c := &comparison{Verifier: v, request: r, report: &Report{}, deleted: map[string]bool{}}
	steps := [...]func(context.Context) error{c.measure, v.Archive.Refresh, c.repeats, c.count, c.settle}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	for i := range c.report.Rows {
		x := &c.report.Rows[i]
		x.Moved = max(x.found-x.differently, 0)
	}
	return c.report, nil
}

// comparison is one call of Verify.
type comparison struct {
	*Verifier
	request Request
	report  *Report
	extra   map[archive.BlockOf]int64 // documents beyond the first of their number
	differ  []differing
	held    []candidate
	bytes   int // of held

	prepared bool            // the template is known to be there
	deleted  map[string]bool // days that were asked for, by their names
}

// differing is numbers of which the index has too few.
type differing struct {
	row         int
	first, last uint64
}

// candidate is an event that may be missing.
type candidate struct {
	row   int
	event event.Event
}

// measure finds out what there is to compare: one row for each epoch of each partition.
func (c *comparison) measure(ctx context.Context) error {
	done := checkpoint.Set{}
	if c.Checkpoint != nil {
		var err error
		if done, err = c.Checkpoint.Load(ctx); err != nil {
			return err
		}
	}
	for p := range c.Partitions {
		x, err := c.Journal.Extent(ctx, p, c.request.Since, c.request.Lag)
		if err != nil {
			return err
		}
		about := Partition{Partition: p, Trimmed: x.Trimmed, Young: x.Newer}
		for _, s := range x.Spans {
			if at, ok := done[p]; ok && at.Seq < s.Last {
				upto := max(at.Seq, s.First-1)
				about.Waiting += s.Last - upto
				s.Last = upto
			}
			if s.First <= s.Last {
				c.report.Rows = append(c.report.Rows, Row{Partition: p, Epoch: s.Epoch, First: s.First, Last: s.Last, Journal: int64(s.Last - s.First + 1)})
			}
		}
		c.report.Partitions = append(c.report.Partitions, about)
	}
	return nil
}

func (x *Row) span() archive.Range {
	return archive.Range{Partition: x.Partition, First: x.First, Last: x.Last}
}

// repeats looks for numbers with several documents, so many numbers at once as one request takes.
func (c *comparison) repeats(ctx context.Context) error {
	c.extra = map[archive.BlockOf]int64{}
	var batch []archive.Range
	room := uint64(archive.MaxNumbers)
	flush := func() error {
		found, err := c.Archive.Repeats(ctx, batch)
		for of, documents := range found {
			c.extra[archive.BlockOf{Partition: of.Partition, Block: of.First / archive.Block}] += documents - 1
			if len(c.report.Repeated) < c.request.Limit {
				c.report.Repeated = append(c.report.Repeated, Repeated{of.Partition, of.First, documents})
			}
		}
		batch, room = batch[:0], archive.MaxNumbers
		return err
	}
	for i := range c.report.Rows {
		for rest := c.report.Rows[i].span(); ; {
			part := rest
			part.Last = min(rest.Last, rest.First+room-1)
			batch = append(batch, part)
			if room -= part.Len(); room == 0 {
				if err := flush(); err != nil {
					return err
				}
			}
			if part.Last == rest.Last {
				break
			}
			rest.First = part.Last + 1
		}
	}
	return flush()
}

// count compares the numbers of documents, block by block.
func (c *comparison) count(ctx context.Context) error {
	ranges := make([]archive.Range, len(c.report.Rows))
	for i := range c.report.Rows {
		ranges[i] = c.report.Rows[i].span()
	}
	tally, err := c.Archive.Tally(ctx, ranges)
	if err != nil {
		return err
	}
	for i := range c.report.Rows {
		x := &c.report.Rows[i]
		for first := x.First; first <= x.Last; {
			of := archive.BlockOf{Partition: x.Partition, Block: first / archive.Block}
			last := min(x.Last, (of.Block+1)*archive.Block-1)
			documents, extra := tally[of], c.extra[of]
			x.Index += documents
			x.Repeated += extra
			if documents-extra < int64(last-first+1) {
				x.differently += documents - extra
				c.look(i, first, last)
			}
			first = last + 1
		}
	}
	return nil
}

// look notes that the numbers first to last of a row have to be looked at one by one.
func (c *comparison) look(row int, first, last uint64) {
	if n := len(c.differ); n > 0 && c.differ[n-1].row == row && c.differ[n-1].last+1 == first {
		c.differ[n-1].last = last
		return
	}
	c.differ = append(c.differ, differing{row, first, last})
}

// settle reads what differs from the journal and asks for each event by its id.
func (c *comparison) settle(ctx context.Context) error {
	for _, d := range c.differ {
		for after := d.first - 1; after < d.last; {
			events, err := c.Journal.Read(ctx, c.report.Rows[d.row].Partition, after, int(min(readPage, d.last-after)))
			if err != nil {
				return err
			}
			next, err := c.hold(ctx, d, after, events)
			if err != nil {
				return err
			}
			after = next
		}
	}
	return c.lookUp(ctx)
}

// hold takes events of the journal into hand, up to d's end, and returns the last number.
func (c *comparison) hold(ctx context.Context, d differing, after uint64, events [][]byte) (uint64, error) {
	x := &c.report.Rows[d.row]
	for _, raw := range events {
		e, err := event.ParseStored(raw)
		if err != nil {
			return 0, err
		}
		x.Unread += int64(min(e.Seq, d.last+1) - after - 1) // it was trimmed in between
		if after = e.Seq; e.Seq > d.last {
			return d.last, nil
		}
		c.held = append(c.held, candidate{d.row, e})
		if c.bytes += len(raw); len(c.held) == archive.MaxIDs || c.bytes >= maxHeldBytes {
			if err := c.lookUp(ctx); err != nil {
				return 0, err
			}
		}
	}
	if len(events) == 0 {
		x.Unread += int64(d.last - after)
		return d.last, nil
	}
	return after, nil
}

// lookUp settles what became of the events in hand.
func (c *comparison) lookUp(ctx context.Context) error {
	if len(c.held) == 0 {
		return nil
	}
	ids := make([]string, len(c.held))
	for i := range c.held {
		ids[i] = c.held[i].event.ID
	}
	known, err := c.Archive.Known(ctx, ids)
	if err != nil {
		return err
	}
	var missing []candidate
	for _, x := range c.held {
		gone, err := c.expired(ctx, known[x.event.ID], &x.event)
		if err != nil {
			return err
		}
		row := &c.report.Rows[x.row]
		switch where := known[x.event.ID]; {
		case where == archive.Archived:
			row.found++
		case where == archive.Buried:
			row.Dead++
		case gone:
			row.Expired++
		default:
			row.Missing++
			missing = append(missing, x)
		}
	}
	c.held, c.bytes = c.held[:0], 0
	return c.missing(ctx, missing)
}

// expired reports whether an event that is nowhere was there until the index of its day was deleted.
func (c *comparison) expired(ctx context.Context, where archive.Whereabouts, e *event.Event) (bool, error) {
	if where == archive.Archived || where == archive.Buried {
		return false, nil
	}
	day := c.Archive.IndexOf(e.Time())
	if gone, asked := c.deleted[day]; asked {
		return gone, nil
	}
	gone, err := wasDeleted(ctx, c.Redis, day)
	if err == nil {
		c.deleted[day] = gone
	}
	return gone, err
}

// missing lists the events, and indexes them when that is asked for.
func (c *comparison) missing(ctx context.Context, all []candidate) error {
	refused := map[int]string{}
	if c.request.Repair && len(all) > 0 {
		var err error
		if refused, err = c.repair(ctx, all); err != nil {
			return err
		}
	}
	for i, x := range all {
		_, not := refused[i]
		done := c.request.Repair && !not
		if done {
			c.report.Rows[x.row].Repaired++
		}
		if len(c.report.Missing) < c.request.Limit {
			e := &x.event
			c.report.Missing = append(c.report.Missing, Missing{e.Partition, e.Seq, e.Epoch, e.ID, done, refused[i]})
		}
	}
	return nil
}

// repair indexes the events and returns why some were refused, by their place.
func (c *comparison) repair(ctx context.Context, all []candidate) (map[int]string, error) {
	refused := map[int]string{}
	places := make([]int, len(all))
	for i := range places {
		places[i] = i
	}
	err := retry.Policy{}.Forever(ctx, func(ctx context.Context) error {
		if !c.prepared { // no index is to be made without the template
			if err := c.Archive.Prepare(ctx); err != nil {
				return err
			}
			c.prepared = true
		}
		events := make([]event.Event, len(places))
		for i, place := range places {
			events[i] = all[place].event
		}
		r, err := c.Archive.Index(ctx, events)
		if err != nil {
			return err
		}
		for _, x := range r.Refused {
			refused[places[x.Doc]] = x.Reason
		}
		var again []int
		for _, i := range r.Retry {
			again = append(again, places[i])
		}
		if places = again; len(again) > 0 {
			return fault.E("repair", fault.Unavailable, r.Cause)
		}
		return nil
	}, nil)
	return refused, err
}
