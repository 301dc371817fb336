package wal

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const childDir = "EVENTSPINE_WAL_TEST_CHILD"

// child appends from several goroutines and says on its output which indexes were answered for.
func child(dir string) {
	o := small(dir)
	o.SegmentBytes = 256 << 10
	l, err := Open(o)
	if err != nil {
		fmt.Println("failed", err)
		os.Exit(1)
	}
	fmt.Println("open", l.End())
	for range 15 {
		go appendForEver(l)
	}
	appendForEver(l)
}

func appendForEver(l *Log) {
	for {
		records := make([][]byte, 40)
		for i := range records {
			records[i] = make([]byte, 4+300+i*50)
		}
		first, err := l.Append(context.Background(), records, func(first uint64) {
			for i, r := range records {
				selfChecked(r, first+uint64(i))
			}
		})
		if err != nil {
			fmt.Println("failed", err)
			os.Exit(1)
		}
		fmt.Println("kept", first+uint64(len(records))-1)
	}
}

// selfChecked fills r so that it tells its own index and whether it is whole.
func selfChecked(r []byte, index uint64) {
	for i := 4; i+8 <= len(r); i += 8 {
		binary.LittleEndian.PutUint64(r[i:], index)
	}
	binary.LittleEndian.PutUint32(r, crc32.ChecksumIEEE(r[4:]))
}

// Killed at any moment, nothing that was answered for is missing, and nothing is there by halves.
func TestKilledInMidWrite(t *testing.T) {
	dir := t.TempDir()
	rounds := 8
	if testing.Short() {
		rounds = 4
	}
	end := uint64(1)
	for round := range rounds {
		kept := killedAfter(t, dir, 20+round*13, &end)
		o := small(dir)
		l := open(t, o)
		if l.End() <= kept {
			t.Fatalf("round %d: %d was answered for, the log ends at %d", round, kept, l.End())
		}
		got := all(t, l, 1)
		for i, r := range got {
			b := []byte(r.body)
			if r.index != uint64(i+1) || binary.LittleEndian.Uint64(b[4:]) != r.index || crc32.ChecksumIEEE(b[4:]) != binary.LittleEndian.Uint32(b) {
				t.Fatalf("round %d: record %d is not whole", round, r.index)
			}
		}
		if uint64(len(got))+1 != l.End() {
			t.Fatalf("round %d: %d records, end %d", round, len(got), l.End())
		}
		end = l.End()
		_ = l.Close()
	}
}

// killedAfter lets a child append, kills it after so many answers, and returns the last index
// that was answered for.
func killedAfter(t *testing.T, dir string, answers int, end *uint64) (kept uint64) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		word, value, _ := strings.Cut(lines.Text(), " ")
		n, _ := strconv.ParseUint(value, 10, 64)
		switch word {
		case "open":
			if n < *end {
				t.Errorf("the child begins at %d; the log ended at %d", n, *end)
			}
		case "kept":
			kept = max(kept, n)
			if answers--; answers == 0 {
				_ = cmd.Process.Kill()
			}
		case "failed":
			t.Errorf("child: %s", value)
		}
	}
	_ = cmd.Wait() // it was killed
	return kept
}

// The log beside a list in memory: appends, trims, reopens, readers that seek.
func TestLogKeepsToTheModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		o := small(t.TempDir())
		o.SegmentBytes = int64(rapid.IntRange(100, 5000).Draw(rt, "segment"))
		m := &model{t: rt, o: o}
		m.reopen(rt)
		defer func() { _ = m.l.Close() }()
		rt.Repeat(map[string]func(*rapid.T){
			"append": m.append,
			"trim":   m.trim,
			"reopen": m.reopen,
			"read":   m.read,
			"":       m.check,
		})
	})
}

type model struct {
	t       *rapid.T
	o       Options
	l       *Log
	records []string // records[i] has index i+1
	trimmed uint64   // all below may be gone, nothing from it on
}

func (m *model) append(t *rapid.T) {
	n := rapid.IntRange(1, 20).Draw(t, "n")
	records := make([][]byte, n)
	for i := range records {
		records[i] = rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "record")
	}
	stamped := uint64(0)
	first, err := m.l.Append(context.Background(), records, func(first uint64) { stamped = first })
	if err != nil || first != uint64(len(m.records)+1) || stamped != first {
		t.Fatalf("append gave %d (stamped %d), %v; want %d", first, stamped, err, len(m.records)+1)
	}
	for _, r := range records {
		m.records = append(m.records, string(r))
	}
}

func (m *model) trim(t *rapid.T) {
	before := uint64(rapid.IntRange(0, len(m.records)+2).Draw(t, "before"))
	m.l.Trim(before, farFuture)
	m.trimmed = max(m.trimmed, before)
}

func (m *model) reopen(t *rapid.T) {
	if m.l != nil {
		if err := m.l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	l, err := Open(m.o)
	if err != nil {
		t.Fatal(err)
	}
	m.l = l
}

func (m *model) read(t *rapid.T) {
	r := m.l.Reader(uint64(rapid.IntRange(0, len(m.records)+1).Draw(t, "from")))
	defer func() { _ = r.Close() }()
	for range rapid.IntRange(1, 4).Draw(t, "seeks") {
		from := uint64(rapid.IntRange(0, len(m.records)+1).Draw(t, "seek"))
		r.Seek(from)
		want := max(from, m.l.First())
		for range rapid.IntRange(0, 40).Draw(t, "count") {
			if want >= m.l.End() {
				break
			}
			index, b, err := r.Next(context.Background())
			if err != nil || index != want || string(b) != m.records[want-1] {
				t.Fatalf("after Seek(%d): %d, %v; want %d", from, index, err, want)
			}
			want++
		}
	}
}

func (m *model) check(t *rapid.T) {
	if m.l.End() != uint64(len(m.records)+1) || m.l.First() > max(m.trimmed, 1) {
		t.Fatalf("first %d, end %d with %d records, trimmed below %d", m.l.First(), m.l.End(), len(m.records), m.trimmed)
	}
}
