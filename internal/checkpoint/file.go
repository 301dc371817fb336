package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"eventspine/internal/fault"
)

// State is what a process keeps in its own file.
type State struct {
	Spool     uint64 `json:"spool"`     // generation of the spool that Done belongs to
	Done      uint64 `json:"done"`      // all of the spool's records before this index are done
	Positions Set    `json:"positions"` // as in Redis
}

// A file is one line that says what it is, then the State as JSON:
//
//	eventspine-checkpoint 1 0a1b2c3d
//
// The numbers are the version and the CRC-32C of the rest.
const (
	magic   = "eventspine-checkpoint"
	version = "1"
)

// ReadFile reads a State; the zero State when there is no file. Errors are of kind Invalid and say
// what to do about the file.
func ReadFile(path string) (State, error) {
	const op = "read checkpoint"
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, nil
	}
	if err != nil {
		return State{}, fault.E(op, fault.Invalid, err)
	}
	s, err := decode(b)
	if err != nil {
		return State{}, fault.Errorf(op, fault.Invalid, "%s %w; move it away to go on from the checkpoint in Redis", path, err)
	}
	return s, nil
}

func decode(b []byte) (State, error) {
	head, body, _ := bytes.Cut(b, []byte("\n"))
	words := strings.Split(string(head), " ")
	switch {
	case words[0] != magic || len(words) != 3:
		return State{}, errors.New("is no checkpoint of eventspine")
	case words[1] != version:
		return State{}, fmt.Errorf("has version %.20q, and this program knows version %s: use the program that wrote it", words[1], version)
	}
	sum, err := strconv.ParseUint(words[2], 16, 32)
	if err != nil || uint32(sum) != checksum(body) {
		return State{}, errors.New("is damaged")
	}
	var s State
	if err := json.Unmarshal(body, &s); err != nil {
		return State{}, errors.New("is damaged")
	}
	return s, nil
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// WriteFile puts s in the place of what the file held. When it returns nil, s is on the disk; on
// an error, of kind Unavailable, the file is as it was.
func WriteFile(path string, s State) error {
	body, err := json.Marshal(s)
	if err == nil {
		err = replace(path, append(fmt.Appendf(nil, "%s %s %08x\n", magic, version, checksum(body)), body...))
	}
	return fault.E("write checkpoint", fault.Unavailable, err)
}

func replace(path string, b []byte) error {
	next := path + ".new"
	f, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(next, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
