package ingest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/wal"
	"eventspine/internal/zmq"
)

const parts = 4

// books is the journal of a fake worker, as the contract has it.
type books struct {
	mu     sync.Mutex
	epoch  uint64
	last   map[string]uint64 // of a source, generation and partition
	stored map[int][]string  // ids in order, by partition
	seen   map[string]bool   // ids of this epoch
	lostIn float64           // share of batches that never arrive
	lostOn float64           // and of answers
	inRow  map[int]int       // answers lost since one came through, by partition
	r      map[string]bool   // ids that came as redelivered
	jumps  []string
	seq    uint64
	naks   int
}

func newBooks() *books {
	b := &books{epoch: 1000, inRow: map[int]int{}}
	b.wipe()
	return b
}

// wipe loses all, as FLUSHALL does, but for what the test remembers.
func (b *books) wipe() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.epoch += 1_000_000
	b.seq = b.epoch
	b.last, b.stored, b.seen, b.r = map[string]uint64{}, map[int][]string{}, map[string]bool{}, map[string]bool{}
}

// lose sets the share of answers that are lost.
func (b *books) lose(share float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lostOn = share
}

// answerLost decides about one answer. A share below 1 loses five in a row at most: the sixth question
// is some 15 s after the first, and chance alone would make it the tenth in one run of a hundred.
func (b *books) answerLost(partition int) bool {
	if rand.Float64() >= b.lostOn || b.lostOn < 1 && b.inRow[partition] == 5 {
		b.inRow[partition] = 0
		return false
	}
	b.inRow[partition]++
	return true
}

// apply does what the worker's script does, and answers.
func (b *books) apply(h Numbered, events [][]byte) (Ack, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := Ack{Generation: h.Generation, Partition: h.Partition, Round: h.Round, Epoch: b.epoch}
	if rand.Float64() < b.lostIn {
		return a, false
	}
	stream := fmt.Sprint(h.Source, h.Generation, h.Partition)
	last, known := b.last[stream]
	if len(events) > 0 {
		if h.First-h.Skip > last+1 && h.Flags&Start == 0 {
			a.Nak, a.Last = true, last
			b.naks++
			return a, !b.answerLost(h.Partition)
		}
		if h.First-h.Skip > last+1 && known {
			b.jumps = append(b.jumps, fmt.Sprintf("%d: %d to %d", h.Partition, last, h.First))
		}
		for i, e := range events {
			n := h.First + uint64(i)
			if n <= last {
				a.Seqs = append(a.Seqs, 0)
				continue
			}
			b.seq++
			a.Seqs = append(a.Seqs, b.seq)
			id := idOf(e)
			if !b.seen[id] {
				b.stored[h.Partition] = append(b.stored[h.Partition], id)
			}
			b.seen[id] = true
			b.r[id] = h.Flags&Redelivered != 0
			last = n
		}
		b.last[stream] = last
	}
	if a.First = h.First; h.Flags&Wait == 0 {
		a.Seqs = nil
	}
	a.Last = last
	return a, !b.answerLost(h.Partition)
}

func idOf(raw []byte) string {
	_, rest, _ := strings.Cut(string(raw), `"id":"`)
	id, _, _ := strings.Cut(rest, `"`)
	return id
}

func (b *books) count() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, ids := range b.stored {
		n += len(ids)
	}
	return n
}

// inOrder checks that the numbers in the ids of each partition go up by one.
func (b *books) inOrder(t testing.TB) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for p, ids := range b.stored {
		last := map[string]int{}
		for _, id := range ids {
			user, number, _ := strings.Cut(id, "-")
			var n int
			_, _ = fmt.Sscan(number, &n)
			if before, ok := last[user]; ok && n != before+1 {
				t.Fatalf("partition %d: %s follows %d", p, id, before)
			}
			last[user] = n
		}
	}
}

// fake is a worker: a real PULL socket above the books.
type fake struct {
	endpoint string
	books    *books
	stop     context.CancelFunc
	done     chan struct{}
}

// work starts a worker whose answers go to tell.
func work(t testing.TB, at string, books *books, tell func(Ack)) *fake {
	t.Helper()
	r, err := Listen(t.Context(), at, ReceiverOptions{ZMQ: zmq.Options{RcvHWM: 100}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &fake{r.Endpoint(), books, cancel, make(chan struct{})}
	go func() {
		defer close(f.done)
		defer func() {
			ended, cancel := context.WithCancel(context.Background())
			cancel()
			_ = r.Close(ended)
		}()
		for {
			b, err := r.Recv(ctx)
			if err != nil {
				return
			}
			if b.Numbered == nil {
				t.Error("a batch without a B2 header")
				continue
			}
			if a, told := books.apply(*b.Numbered, b.Events); told {
				tell(a)
			}
		}
	}()
	t.Cleanup(f.kill)
	return f
}

func (f *fake) kill() { f.stop(); <-f.done }

// rig is an outbox that can be closed and opened again.
type rig struct {
	t     testing.TB
	o     OutboxOptions
	mu    sync.Mutex
	b     *Outbox
	end   func()
	total map[string]int // events appended, by user
}

func newRig(t testing.TB, workers ...string) *rig {
	t.Helper()
	r := &rig{t: t, total: map[string]int{}, o: OutboxOptions{Endpoints: workers, Source: "api-1", Partitions: parts,
		Log: wal.Options{Dir: filepath.Join(t.TempDir(), "log"), SegmentBytes: 64 << 10, MinFree: -1}, ZMQ: zmq.Options{Linger: -1, ReconnectMin: 10 * time.Millisecond, ReconnectMax: 50 * time.Millisecond}}}
	t.Cleanup(func() { r.close() })
	return r
}

func (r *rig) open() *Outbox {
	r.t.Helper()
	b, err := OpenOutbox(r.o)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = b.Run(ctx)
	}()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.b = b
	r.end = func() {
		cancel()
		<-done
		if err := b.Close(context.Background()); err != nil {
			r.t.Error(err)
		}
	}
	return b
}

func (r *rig) close() {
	r.mu.Lock()
	end := r.end
	r.b, r.end = nil, nil
	r.mu.Unlock()
	if end != nil {
		end()
	}
}

// tell hands an answer to the outbox that is open now.
func (r *rig) tell(a Ack) {
	r.mu.Lock()
	b := r.b
	r.mu.Unlock()
	if b != nil {
		b.Acknowledge(a)
	}
}

// post appends count events of several users.
func (r *rig) post(count int) {
	r.t.Helper()
	for count > 0 {
		var events []event.Event
		for range min(count, 1+rand.IntN(20)) {
			user := fmt.Sprintf("u%d", rand.IntN(12))
			r.total[user]++
			id := fmt.Sprintf("%s-%d", user, r.total[user])
			events = append(events, event.Event{ID: id, UserID: user, Raw: fmt.Appendf(nil, `{"id":"%s","type":"a.b","userId":"%s"}`, id, user)})
		}
		if err := r.b.Append(r.t.Context(), events); err != nil {
			r.t.Fatal(err)
		}
		count -= len(events)
	}
}

func (r *rig) sum() (n int) {
	for _, k := range r.total {
		n += k
	}
	return n
}

// settled waits until all that was posted is stored and acknowledged.
func (r *rig) settled(books *books) {
	r.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for books.count() < r.sum() || r.b.Unacknowledged() > 0 {
		if time.Now().After(deadline) {
			r.t.Fatalf("%d of %d stored, %d not acknowledged, jumps %v\n%s", books.count(), r.sum(), r.b.Unacknowledged(), books.jumps, r.state())
		}
		pause(time.Millisecond)
	}
	if n := books.count(); n != r.sum() {
		r.t.Fatalf("%d stored of %d", n, r.sum())
	}
	books.inOrder(r.t)
}

func (r *rig) state() (out string) {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	for p := range r.b.forward.streams {
		s := r.b.forward.streams[p]
		s.flights = nil
		out += fmt.Sprintf("%d: %+v\n", p, s)
	}
	return out + fmt.Sprintf("main %d behind %d members %d", r.b.forward.main.next, r.b.forward.behind.next, r.b.forward.members)
}

// pause gives the others time; what is waited for is checked by the caller.
func pause(d time.Duration) { <-time.After(d) }

func TestEverythingIsStoredOnceAndInOrder(t *testing.T) {
	for name, c := range map[string]struct{ in, on float64 }{"good": {}, "lost batches": {in: .2}, "lost answers": {on: .5}, "both": {.1, .3}} {
		t.Run(name, func(t *testing.T) {
			books := newBooks()
			books.lostIn, books.lostOn = c.in, c.on
			r := newRig(t)
			w := work(t, "tcp://127.0.0.1:0", books, r.tell)
			r.o.Endpoints = []string{w.endpoint}
			r.open()
			for range 4 {
				r.post(700)
			}
			r.settled(books)
			r.post(5)
			r.settled(books)
			if len(books.jumps) > 0 || c.in == 0 && books.naks > 0 {
				t.Errorf("jumps %v, %d naks", books.jumps, books.naks)
			}
			for id, again := range books.r {
				if again {
					t.Errorf("%s was marked as redelivered", id)
				}
			}
		})
	}
}

func TestAWorkerThatIsKilled(t *testing.T) {
	books := newBooks()
	r := newRig(t)
	w := work(t, "tcp://127.0.0.1:0", books, r.tell)
	r.o.Endpoints = []string{w.endpoint}
	r.open()
	for range 4 {
		r.post(400)
		w.kill()
		r.post(300)
		w = work(t, w.endpoint, books, r.tell)
	}
	r.settled(books)
	if len(books.jumps) > 0 {
		t.Error(books.jumps)
	}
}

func TestOneStalledWorkerHoldsUpItsPartitionsOnly(t *testing.T) {
	books := newBooks()
	r := newRig(t)
	const parts = 32 // so that each worker has some, whatever their ports
	r.o.Partitions, r.o.ZMQ.SndHWM = parts, 10
	gate := make(chan struct{})
	open := sync.OnceFunc(func() { close(gate) })
	defer open() // or the stalled worker could not be ended
	stalled := work(t, "tcp://127.0.0.1:0", books, func(a Ack) { <-gate; r.tell(a) })
	w := work(t, "tcp://127.0.0.1:0", books, r.tell)
	r.o.Endpoints = []string{stalled.endpoint, w.endpoint}
	b := r.open()
	for b.Workers() < 2 {
		pause(time.Millisecond)
	}
	for range 500 {
		r.post(40)
	}
	free := func() (n int) {
		books.mu.Lock()
		defer books.mu.Unlock()
		counts := map[int]int{}
		for user, k := range r.total {
			counts[event.Partition(user, "", parts)] += k
		}
		for p, k := range counts {
			if len(books.stored[p]) == k {
				n++
			}
		}
		return n
	}
	for deadline := time.Now().Add(20 * time.Second); free() == 0; pause(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no partition is done\n%s", r.state())
		}
	}
	if free() == parts {
		t.Fatal("nothing was held up; the test shows nothing")
	}
	open()
	r.settled(books)
}

func TestARestartGoesOnWhereItWas(t *testing.T) {
	books := newBooks()
	books.lostOn = .3
	r := newRig(t)
	w := work(t, "tcp://127.0.0.1:0", books, r.tell)
	r.o.Endpoints = []string{w.endpoint}
	for range 6 {
		r.open()
		r.post(300)
		r.close()
	}
	r.open()
	r.settled(books)
	if len(books.jumps) > 0 {
		t.Error(books.jumps)
	}
}

func TestAWipedJournalGetsAllThatIsKept(t *testing.T) {
	for name, marked := range map[string]bool{"idle, told by marks": true, "under load": false} {
		t.Run(name, func(t *testing.T) {
			books := newBooks()
			r := newRig(t)
			w := work(t, "tcp://127.0.0.1:0", books, r.tell)
			r.o.Endpoints = []string{w.endpoint}
			r.open()
			r.post(1500)
			r.settled(books)
			known := r.sum()
			for range 2 {
				books.wipe()
				if marked {
					for p := range parts {
						r.b.Mark(p, books.epoch)
					}
				} else {
					r.post(200)
				}
				r.settled(books)
			}
			again := 0
			for _, marked := range books.r {
				if marked {
					again++
				}
			}
			if again < known {
				t.Errorf("%d of %d are marked as redelivered", again, known)
			}
			r.post(10)
			r.settled(books)
		})
	}
}

// What an api had been told was stored is still marked when the journal is wiped while it is away: all
// of it after a clean end, and after a kill all but what the last tenth of Keep brought.
func TestARestartRemembersWhatWasStored(t *testing.T) {
	for name, kill := range map[string]bool{"ended": false, "killed": true} {
		t.Run(name, func(t *testing.T) {
			books := newBooks()
			r := newRig(t)
			w := work(t, "tcp://127.0.0.1:0", books, r.tell)
			r.o.Endpoints = []string{w.endpoint}
			r.o.Log.SegmentBytes = 0 // no segment ends because it is full
			if kill {
				r.o.Keep = 10 * time.Second
			}
			r.open()
			r.post(500)
			r.settled(books)
			known := r.sum()
			if kill {
				began := r.b.log.End()
				r.until("a segment that begins afterwards", func() bool {
					s := r.b.log.Segments()
					return s[len(s)-1].First == began
				})
				as := filepath.Join(t.TempDir(), "killed")
				if err := os.CopyFS(as, os.DirFS(r.o.Log.Dir)); err != nil {
					t.Fatal(err)
				}
				r.close()
				r.o.Log.Dir = as
			} else {
				r.close()
			}
			books.wipe()
			r.open()
			r.post(10)
			r.settled(books)
			again := 0
			for _, marked := range books.r {
				if marked {
					again++
				}
			}
			if again != known {
				t.Errorf("%d are marked as redelivered, not %d", again, known)
			}
		})
	}
}

// What was acknowledged long ago goes; then a new epoch, or a journal that forgot the source,
// is told that nothing before is kept.
func TestTheLogIsTrimmedByAcknowledgement(t *testing.T) {
	books := newBooks()
	r := newRig(t)
	r.o.Keep = 10 * time.Millisecond
	w := work(t, "tcp://127.0.0.1:0", books, r.tell)
	r.o.Endpoints = []string{w.endpoint}
	r.open()
	r.post(3000)
	r.settled(books)
	r.post(1)
	r.settled(books)
	for deadline := time.Now().Add(15 * time.Second); r.b.log.First() < r.b.log.End(); pause(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the log keeps %d to %d", r.b.log.First(), r.b.log.End())
		}
		for p := range parts { // an answer confirms that the journal lives
			r.b.mu.Lock()
			r.b.forward.streams[p].heard = time.Now()
			r.b.mu.Unlock()
		}
	}
	books.wipe()
	r.post(50)
	r.until("the new epoch has the new events", func() bool { return books.count() == 50 && r.b.Unacknowledged() == 0 })
	r.close()
	r.open()
	r.post(50)
	r.until("so it has after a restart", func() bool { return books.count() == 100 })
	books.inOrder(t)
}

func (r *rig) until(what string, done func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); pause(time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("never: %s\n%s", what, r.state())
		}
	}
}

func TestReceipts(t *testing.T) {
	books := newBooks()
	r := newRig(t)
	w := work(t, "tcp://127.0.0.1:0", books, r.tell)
	r.o.Endpoints = []string{w.endpoint}
	b := r.open()
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			var events []event.Event
			for k := range 1 + i%4 {
				id := fmt.Sprint("w", i, "x", k, "-1")
				events = append(events, event.Event{ID: id, UserID: id, Raw: fmt.Appendf(nil, `{"id":"%s"}`, id)})
			}
			wait, err := b.AppendWait(t.Context(), events)
			if err != nil {
				t.Error(err)
				return
			}
			defer wait.End()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			for k, got := range wait.Receipts(ctx) {
				if id := events[k].ID; got == nil || got.Partition != event.Partition(id, id, parts) || got.Seq <= books.epoch || got.Epoch != books.epoch {
					t.Errorf("%s: %+v", id, got)
				}
			}
		})
	}
	wg.Wait()
	if n := b.waiters.count.Load(); n != 0 {
		t.Errorf("%d waiters are left", n)
	}
}

func TestTheLogIsFull(t *testing.T) {
	books := newBooks()
	r := newRig(t)
	r.o.Log.MaxBytes = 256 << 10
	w := work(t, "tcp://127.0.0.1:0", books, r.tell)
	w.kill()
	r.o.Endpoints = []string{w.endpoint}
	b := r.open()
	big := strings.Repeat("x", 2000)
	post := func() error {
		user := fmt.Sprintf("u%d", rand.IntN(12))
		id := fmt.Sprintf("%s-%d", user, r.total[user]+1)
		err := b.Append(t.Context(), []event.Event{{ID: id, UserID: user, Raw: fmt.Appendf(nil, `{"id":"%s","data":"%s"}`, id, big)}})
		if err == nil {
			r.total[user]++
		}
		return err
	}
	var err error
	for err == nil {
		err = post()
	}
	if fault.KindOf(err) != fault.Overloaded || r.sum() < 50 {
		t.Fatalf("%v after %d", err, r.sum())
	}
	work(t, w.endpoint, books, r.tell)
	r.settled(books)
	for deadline := time.Now().Add(10 * time.Second); post() != nil; pause(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not recover")
		}
	}
	r.settled(books)
}

// A power cut took the end of the log after it was sent: no new event is taken for one of those,
// however often the api begins again, and whatever still arrives of before.
func TestALogThatLostItsEnd(t *testing.T) {
	for name, keep := range map[string]int64{"half": 2, "all but a bit": 1000} {
		t.Run(name, func(t *testing.T) {
			books := newBooks()
			r := newRig(t)
			w := work(t, "tcp://127.0.0.1:0", books, r.tell)
			r.o.Endpoints = []string{w.endpoint}
			r.o.Log.SegmentBytes = 1 << 30
			r.open()
			r.post(300)
			r.settled(books)
			for range 3 {
				r.close()
				files, err := filepath.Glob(filepath.Join(r.o.Log.Dir, "*.wal"))
				if err != nil || len(files) != 2 {
					t.Fatal(files, err)
				}
				if err := os.Remove(files[1]); err != nil { // begun by the clean end, which a power cut does not leave
					t.Fatal(err)
				}
				info, err := os.Stat(files[0])
				if err != nil {
					t.Fatal(err)
				}
				if err := os.Truncate(files[0], max(info.Size()/keep, 1<<10)); err != nil {
					t.Fatal(err)
				}
				r.open()
				r.post(200)
				r.settledByID(books)
			}
			if len(books.jumps) > 0 {
				t.Errorf("events count as lost: %v", books.jumps)
			}
		})
	}
}

// settledByID is settled without the order, which a lost end of the log may cost.
func (r *rig) settledByID(books *books) {
	r.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); books.count() < r.sum() || r.b.Unacknowledged() > 0; pause(time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("%d of %d stored, %d not acknowledged\n%s", books.count(), r.sum(), r.b.Unacknowledged(), r.state())
		}
	}
}

func TestDamageInTheLogStopsNothing(t *testing.T) {
	books := newBooks()
	r := newRig(t, "tcp://127.0.0.1:1")
	r.open()
	r.post(500)
	r.close()
	files, _ := filepath.Glob(filepath.Join(r.o.Log.Dir, "*.wal"))
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	mid := len(b) / 2
	b[mid+bytes.Index(b[mid:], []byte(`"id"`))] ^= 4
	if err := os.WriteFile(files[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	w := work(t, "tcp://127.0.0.1:0", books, r.tell)
	r.o.Endpoints = []string{w.endpoint}
	r.open()
	for deadline := time.Now().Add(20 * time.Second); books.count() < r.sum()-1; pause(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d stored\n%s", books.count(), r.sum(), r.state())
		}
	}
	if books.count() != r.sum()-1 || len(books.jumps) != 1 {
		t.Errorf("%d of %d stored, jumps %v", books.count(), r.sum(), books.jumps)
	}
}

// While no answer comes, events go out all the same, as many as may be under way, although the first
// number of a start lies far above the last one that is acknowledged.
func TestNoAnswersStopNothingAtOnce(t *testing.T) {
	books := newBooks()
	books.lostOn = 1
	r := newRig(t)
	w := work(t, "tcp://127.0.0.1:0", books, r.tell)
	r.o.Endpoints = []string{w.endpoint}
	r.open()
	r.post(300)
	for deadline := time.Now().Add(10 * time.Second); books.count() < r.sum(); pause(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d stored\n%s", books.count(), r.sum(), r.state())
		}
	}
	books.lose(0)
	r.settled(books)
}

func TestALogOfAnotherVersion(t *testing.T) {
	r := newRig(t, "tcp://127.0.0.1:1")
	o := r.o.Log
	o.Note = func() []byte { return []byte(`{"partitions":4,"last":[0,0,0,0],"acked":[0,0,0,0],"epochs":[0,0,0,0]}`) }
	l, err := wal.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), [][]byte{[]byte("of before")}, nil); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenOutbox(r.o); fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "another version") {
		t.Error(err)
	}
}

func TestAnotherPartitionCount(t *testing.T) {
	r := newRig(t, "tcp://127.0.0.1:1")
	r.open()
	r.close()
	r.o.Partitions = 8
	if _, err := OpenOutbox(r.o); fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "was made for 4 partitions and PARTITIONS is 8") {
		t.Error(err)
	}
	for _, change := range []func(*OutboxOptions){
		func(o *OutboxOptions) { o.Endpoints = nil }, func(o *OutboxOptions) { o.Partitions = 0 },
		func(o *OutboxOptions) { o.Source = "a b" }, func(o *OutboxOptions) { o.Endpoints = []string{"nonsense"} },
	} {
		o := r.o
		o.Partitions = parts
		change(&o)
		if _, err := OpenOutbox(o); fault.KindOf(err) != fault.Invalid {
			t.Error(err)
		}
	}
}
