package track

// Entry is one event of the journal.
type Entry struct {
	Item
	Skip bool // not one of those that are subscribed to: it is passed over
}

// Page is what one reading of the journal gave.
type Page struct {
	Entries []Entry // all that the journal holds after where it was read from, up to Upto, in order
	Upto    uint64  // how far was read: the last entry's number, or the journal's newest when there was none
	Epoch   uint64  // the journal's, when it was read
}

// Filled is what became of a page.
type Filled struct {
	Refilled   int    // events that will be handed out
	Lost       uint64 // events that the journal does not hold any more; with feed only, at least so many
	Unfinished uint64 // events of an epoch that ended before they were read, likewise: Redis lost them, and they are sent again
	After      uint64 // where the first of those were missing
}

// Page takes what the journal holds after the place where the partition stood. What is missing
// in it and was not on the wire either is given up, and counted.
func (t *Partition) Page(p Page) Filled {
	f := filler{Partition: t, page: &p}
	t.doubt = false
	for i := range p.Entries {
		e := &p.Entries[i]
		f.fromWire(e.Seq - 1)
		f.fromJournal(e)
	}
	f.fromWire(p.Upto)
	f.end()
	t.settle()
	return f.Filled
}

// filler goes through one page.
type filler struct {
	*Partition
	Filled
	page *Page
}

// fromWire takes what has waited and lies in what was read, up to seq: the journal does not
// hold it, but it was on the wire.
func (f *filler) fromWire(seq uint64) {
	n := 0
	for ; n < len(f.waiting) && f.waiting[n].Seq <= seq; n++ {
		it := f.waiting[n]
		f.bytes -= it.size()
		if it.Seq <= f.last {
			continue
		}
		f.missing(&it, f.page.Epoch == it.Epoch)
		f.hold(it)
	}
	f.forget(n)
}

func (f *filler) fromJournal(e *Entry) {
	if e.Seq <= f.last {
		return
	}
	f.missing(&e.Item, true)
	switch {
	case len(f.waiting) > 0 && f.waiting[0].Seq == e.Seq: // the wire brought it too
		it := f.waiting[0]
		f.bytes -= it.size()
		f.forget(1)
		f.hold(it)
	case e.Skip:
		f.last, f.epoch = e.Seq, e.Epoch
	default:
		e.Refilled = true
		f.Refilled++
		f.hold(e.Item)
	}
}

// missing counts what should be between the last event and this one. kept says that the journal
// held this epoch when it was read, so that what is not there was trimmed; otherwise Redis lost it.
func (f *filler) missing(it *Item, kept bool) {
	switch {
	case f.epoch == 0: // from the oldest there is
	case it.Epoch == f.epoch && f.feed:
		if it.Seq > f.last+1 && it.Prev.Feed > f.last {
			f.give(1, kept)
		}
	case it.Epoch == f.epoch:
		f.give(it.Seq-f.last-1, kept)
	default:
		counted := f.newEpoch(it.Epoch)
		ofThis := it.Prev.Feed > it.Epoch
		switch {
		case !f.feed:
			f.give(it.Seq-it.Epoch-1, kept)
		case it.Prev.Feed > f.last && (ofThis || !counted): // one of the old epoch may be the one that was counted
			f.give(1, kept && ofThis)
		}
	}
	if it.Epoch != f.epoch {
		f.heard = it.Seq
	}
}

// newEpoch ends the old one, and reports whether it counted something that was missing in it.
func (f *filler) newEpoch(epoch uint64) bool {
	switch {
	case f.heard <= f.last:
		return false
	case !f.feed:
		f.give(f.heard-f.last, false)
	case f.known > f.last && f.known < epoch:
		f.give(1, false)
	default:
		return false
	}
	return true
}

func (f *filler) give(n uint64, kept bool) {
	if n == 0 {
		return
	}
	if f.Lost+f.Unfinished == 0 {
		f.After = f.last
	}
	if kept {
		f.Lost += n
	} else {
		f.Unfinished += n
	}
}

// end goes on to where was read up to.
func (f *filler) end() {
	upto, epoch := f.page.Upto, f.page.Epoch
	if upto <= f.last || epoch < f.epoch {
		return
	}
	switch {
	case f.epoch == 0:
	case epoch > f.epoch:
		if f.newEpoch(epoch); !f.feed {
			f.give(upto-epoch, true)
		}
	case !f.feed:
		f.give(upto-f.last, true)
	case f.known > f.last && f.known <= upto:
		f.give(1, true)
	}
	if epoch != f.epoch {
		f.heard = upto
	}
	f.last, f.epoch = upto, epoch
}
