package zmq

// queue is a first-in-first-out ring that grows. The zero value is empty.
type queue[T any] struct {
	buf  []T // length is zero or a power of two
	head int
	n    int
}

func (q *queue[T]) len() int { return q.n }

func (q *queue[T]) push(v T) {
	q.grow()
	q.buf[(q.head+q.n)&(len(q.buf)-1)] = v
	q.n++
}

func (q *queue[T]) pushFront(v T) {
	q.grow()
	q.head = (q.head - 1) & (len(q.buf) - 1)
	q.buf[q.head] = v
	q.n++
}

// pop must not be called on an empty queue.
func (q *queue[T]) pop() T {
	var zero T
	v := q.buf[q.head]
	q.buf[q.head] = zero
	q.head = (q.head + 1) & (len(q.buf) - 1)
	q.n--
	return v
}

// popBack must not be called on an empty queue.
func (q *queue[T]) popBack() T {
	var zero T
	at := (q.head + q.n - 1) & (len(q.buf) - 1)
	v := q.buf[at]
	q.buf[at] = zero
	q.n--
	return v
}

func (q *queue[T]) grow() {
	if q.n < len(q.buf) {
		return
	}
	bigger := make([]T, max(8, 2*len(q.buf)))
	k := copy(bigger, q.buf[q.head:])
	copy(bigger[k:], q.buf[:q.head])
	q.buf, q.head = bigger, 0
}

// item is a message on its way out.
type item struct {
	msg   Msg
	size  int64  // bytes it counts for in a queue
	key   uint64 // of TrySendKey
	keyed bool
}

const frameOverhead = 24 // bytes of memory that a frame takes besides its own

func newItem(m Msg) item {
	it := item{msg: m}
	for _, f := range m {
		it.size += int64(len(f)) + frameOverhead
	}
	return it
}
