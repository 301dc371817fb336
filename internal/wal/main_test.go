package wal

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir) // until it is killed
	}
	goleak.VerifyTestMain(m)
}

// small is a log with little segments and no demand on the disk, that is opened and closed often:
// a flusher's end takes the kernel 30 ms.
func small(dir string) Options {
	return Options{Dir: dir, SegmentBytes: 4 << 10, MaxBytes: 1 << 30, MinFree: -1, sync: syncData}
}

func open(t testing.TB, o Options) *Log {
	t.Helper()
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// body is a record that nothing else looks like.
func body(i uint64) []byte {
	return fmt.Appendf(bytes.Repeat([]byte{byte('a' + i%26)}, int(i*7%90)), "record %d", i)
}

func fill(t testing.TB, l *Log, n int) {
	t.Helper()
	for range n {
		i := l.End()
		first, err := l.Append(t.Context(), [][]byte{body(i)}, nil)
		if err != nil || first != i {
			t.Fatalf("append gave %d, %v; want %d", first, err, i)
		}
	}
}

type record struct {
	index uint64
	body  string
}

// all reads what is committed.
func all(t testing.TB, l *Log, from uint64) (out []record) {
	t.Helper()
	r := l.Reader(from)
	defer func() { _ = r.Close() }()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for {
		i, b, err := r.Next(ended)
		if err != nil {
			return out
		}
		out = append(out, record{i, string(b)})
	}
}

// wantAll checks that l holds the records from first to end, and nothing else.
func wantAll(t testing.TB, l *Log, first, end uint64) {
	t.Helper()
	got := all(t, l, 1)
	for k, r := range got {
		if want := first + uint64(k); r.index != want || r.body != string(body(want)) {
			t.Fatalf("record %d is %d %q; want %d %q", k, r.index, r.body, want, body(want))
		}
	}
	if uint64(len(got)) != end-first {
		t.Fatalf("%d records; want %d to %d", len(got), first, end)
	}
}

// lines collects a log's lines.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func copyDir(t testing.TB, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

var _ io.Writer = (*lines)(nil)
