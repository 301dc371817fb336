package clone

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"eventspine/internal/fault"
)

// magic begins the first line of a state file; the checksum of all that follows ends it.
const magic = "eventspine clone 1 "

// state is the body of the file.
type state struct {
	Epoch   string  `json:"epoch"`
	Seq     uint64  `json:"seq"`
	Entries []saved `json:"entries"`
}

type saved struct {
	Key     string `json:"key"`
	Seq     uint64 `json:"seq"`
	ID      []byte `json:"id"`
	Expires int64  `json:"expires,omitempty"`
	Value   []byte `json:"value"`
}

// encodeState gives the bytes of the file.
func encodeState(s *store) ([]byte, error) {
	st := state{Epoch: s.epoch, Seq: s.seq, Entries: make([]saved, 0, len(s.entries))}
	for key, e := range s.entries {
		st.Entries = append(st.Entries, saved{key, e.seq, e.id[:], e.expires, e.value})
	}
	body, err := json.Marshal(st)
	if err != nil {
		return nil, err
	}
	return signed(body), nil
}

// signed puts the first line before the body.
func signed(body []byte) []byte {
	sum := sha256.Sum256(body)
	return append([]byte(magic+hex.EncodeToString(sum[:])+"\n"), body...)
}

// decodeState reads and checks the bytes of a file. The error says what is wrong with them.
func decodeState(b []byte) (*store, error) {
	line, body, ok := bytes.Cut(b, []byte{'\n'})
	sum, isOurs := bytes.CutPrefix(line, []byte(magic))
	if !ok || !isOurs {
		return nil, errors.New("it does not begin like one")
	}
	if want := sha256.Sum256(body); hex.EncodeToString(want[:]) != string(sum) {
		return nil, errors.New("its checksum is wrong")
	}
	var st state
	if err := json.Unmarshal(body, &st); err != nil {
		return nil, err
	}
	s := newStore()
	s.epoch, s.seq, s.base = st.Epoch, st.Seq, st.Seq
	for _, v := range st.Entries {
		_, twice := s.entries[v.Key]
		if CheckKey(v.Key) != nil || twice || v.Seq > st.Seq || len(v.Value) == 0 || len(v.Value) > MaxValue || len(v.ID) != len(ID{}) {
			return nil, errors.New("it holds a value that cannot be")
		}
		s.entries[v.Key] = entry{seq: v.Seq, id: ID(v.ID), expires: v.Expires, value: v.Value}
		s.bytes += len(v.Key) + len(v.Value)
	}
	if st.Epoch == "" || len(s.entries) > MaxKeys || s.bytes > MaxBytes {
		return nil, errors.New("it holds a map that cannot be")
	}
	return s, nil
}

// load reads the state file; a path that does not exist is an empty map. Errors are of kind
// Corrupt, naming the file and what to do, or Unavailable when it cannot be read.
func load(path string) (*store, error) {
	const op = "read the state file"
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return newStore(), nil
	}
	if err != nil {
		return nil, fault.E(op, fault.Unavailable, err)
	}
	s, err := decodeState(b)
	if err != nil {
		return nil, fault.Errorf(op, fault.Corrupt, "%s is not a whole state file: %w; put a good copy in its place, "+
			"or move it away to begin with an empty map", path, err)
	}
	return s, nil
}

// save replaces the file by the state of s as a whole: after a crash there is the old file or
// the new one, and after save has returned nil the new one.
func save(path string, s *store) error {
	b, err := encodeState(s)
	if err == nil {
		err = replace(path, b)
	}
	if err != nil {
		return fault.E("write the state file", fault.Unavailable, err)
	}
	return nil
}

func replace(path string, b []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
