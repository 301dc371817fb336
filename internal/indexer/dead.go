package indexer

import (
	"encoding/json"
	"errors"
	"os"
	"sync"

	"eventspine/internal/archive"
)

// maxDeadFile is the size at which the file of dead letters becomes the old one, in the place of
// the one before. The index of dead letters keeps them all.
const maxDeadFile = 64 << 20

// deadFile is a file of dead letters, one JSON object a line. Safe for concurrent use.
type deadFile struct {
	path string
	mu   sync.Mutex
}

// write adds the letters; when it returns nil they are on the disk.
func (d *deadFile) write(letters []archive.Letter) error {
	if len(letters) == 0 {
		return nil
	}
	var b []byte
	for i := range letters {
		line, err := json.Marshal(&letters[i])
		if err != nil {
			return err
		}
		b = append(append(b, line...), '\n')
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if info, err := os.Stat(d.path); err == nil && info.Size() > maxDeadFile {
		if err := os.Rename(d.path, d.path+".old"); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(d.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
