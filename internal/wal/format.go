package wal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"
)

const (
	magic      = "spineWAL"
	version    = 1
	headerSize = 48 // of one copy of a segment's header
	notesAt    = 2 * headerSize
	recordHead = 16
	align      = 8
	ext        = ".wal"
	tmpExt     = ".wal.tmp"
	lockFile   = "lock"

	// MaxNote is the most bytes a segment's note may have.
	MaxNote = 64 << 10
	// MaxRecord is the most bytes a record may have.
	MaxRecord = 32 << 20
)

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) } // the same table each time

// header is what a segment begins with.
type header struct {
	version    uint32
	generation uint64
	first      uint64
	created    time.Time
	noteLen    uint32
	noteCRC    uint32
}

func (h header) append(dst []byte) []byte {
	at := len(dst)
	dst = append(dst, magic...)
	dst = binary.LittleEndian.AppendUint32(dst, h.version)
	dst = binary.LittleEndian.AppendUint32(dst, h.noteLen)
	dst = binary.LittleEndian.AppendUint64(dst, h.generation)
	dst = binary.LittleEndian.AppendUint64(dst, h.first)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(h.created.UnixNano()))
	dst = binary.LittleEndian.AppendUint32(dst, h.noteCRC)
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[at:], castagnoli()))
}

// parseHeader reads one copy; it reports whether the copy is whole, of whichever version.
func parseHeader(b []byte) (header, bool) {
	if len(b) < headerSize || string(b[:8]) != magic ||
		crc32.Checksum(b[:headerSize-4], castagnoli()) != binary.LittleEndian.Uint32(b[headerSize-4:]) {
		return header{}, false
	}
	return header{
		version:    binary.LittleEndian.Uint32(b[8:]),
		noteLen:    binary.LittleEndian.Uint32(b[12:]),
		generation: binary.LittleEndian.Uint64(b[16:]),
		first:      binary.LittleEndian.Uint64(b[24:]),
		created:    time.Unix(0, int64(binary.LittleEndian.Uint64(b[32:]))),
		noteCRC:    binary.LittleEndian.Uint32(b[40:]),
	}, true
}

// appendSegmentHead appends all that comes before the first record.
func appendSegmentHead(dst []byte, h header, note []byte) []byte {
	h.noteLen, h.noteCRC = uint32(len(note)), crc32.Checksum(note, castagnoli())
	dst = append(h.append(h.append(dst)), note...)
	return pad(dst)
}

func pad(b []byte) []byte {
	for len(b)%align != 0 {
		b = append(b, 0)
	}
	return b
}

func aligned(n int64) int64 { return (n + align - 1) &^ (align - 1) }

// recordSize is what a record of n bytes takes in a segment.
func recordSize(n int) int64 { return aligned(recordHead + int64(n)) }

func segmentName(first uint64) string { return fmt.Sprintf("%020d%s", first, ext) }

// segmentFirst is the index in a segment's name; ok says whether it is such a name.
func segmentFirst(name string) (first uint64, ok bool) {
	digits, ok := strings.CutSuffix(name, ext)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	first, err := strconv.ParseUint(digits, 10, 64)
	return first, err == nil && first > 0
}

// seed makes the checksum of a record depend on the log and the segment, so that bytes of
// another log, or a record's image inside another record's body, are not taken for a record.
func seed(generation, first uint64) uint32 {
	b := binary.LittleEndian.AppendUint64(nil, generation)
	return crc32.Checksum(binary.LittleEndian.AppendUint64(b, first), castagnoli())
}

// checksum is the CRC of a record, all of it but the CRC itself, that lies at offset at.
func checksum(seed uint32, at int64, rest []byte) uint32 {
	return crc32.Update(seed^uint32(uint64(at)*0x9e3779b97f4a7c15>>32), castagnoli(), rest)
}

// appendRecord appends a record that will lie at offset at.
func appendRecord(dst []byte, seed uint32, at int64, index uint64, body []byte) []byte {
	begin := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(body)))
	dst = binary.LittleEndian.AppendUint64(dst, index)
	dst = append(dst, body...)
	binary.LittleEndian.PutUint32(dst[begin:], checksum(seed, at, dst[begin+4:]))
	return pad(dst)
}

// bodyLen is the length that a record's first bytes claim, when index and length can be true:
// the index is from lo to hi and the record ends within room bytes.
func bodyLen(b []byte, room int64, lo, hi uint64) (n int, index uint64, ok bool) {
	if len(b) < recordHead || room < recordHead {
		return 0, 0, false
	}
	index = binary.LittleEndian.Uint64(b[8:])
	size := int64(binary.LittleEndian.Uint32(b[4:]))
	return int(size), index, index >= lo && index <= hi && size <= MaxRecord && recordHead+size <= room
}

// whole reports whether b, a record's head and body at offset at, is as it was written.
func whole(b []byte, seed uint32, at int64) bool {
	return binary.LittleEndian.Uint32(b) == checksum(seed, at, b[4:])
}

// blank reports whether b holds zeroes only.
func blank(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }
