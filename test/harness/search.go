package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"eventspine/internal/testkit/ports"
)

// Search is a genuine Elasticsearch that may be killed. Kill, Start and Close belong to one goroutine.
type Search struct {
	URL string

	dir string
	p   *Process
}

// StartSearch starts an Elasticsearch with a data directory of its own and waits until it answers,
// some 15 s. Its log goes to logs.
func StartSearch(ctx context.Context, at Place, logs string) (*Search, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	free, err := ports.Free(1)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("/var/tmp", "eventspine-search-") // as root it runs as nobody, who has to reach it
	if err != nil {
		return nil, err
	}
	s := &Search{URL: fmt.Sprintf("http://%s:%d", at.host(), free[0]), dir: dir}
	s.p, err = launchAt(at, "elasticsearch", logs, []string{"ES_HEAP=512m", "ES_ADDRESS=" + at.host()}, "setsid", filepath.Join(root, "test", "elasticsearch", "run.sh"), fmt.Sprint(free[0]), dir)
	if err == nil {
		err = Until(ctx, 4*time.Minute, s.Answers)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close(), errors.New(s.Tail()))
	}
	return s, nil
}

// Answers returns an error unless the server does.
func (s *Search) Answers() error { return OK(s.URL) }

// Kill ends the server and its launcher, which are a session of their own, with SIGKILL.
func (s *Search) Kill() error {
	if err := syscall.Kill(-s.p.PID(), syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	_, err := s.p.Wait(10 * time.Second)
	return err
}

// Start starts it again with the data it had, and does not wait until it answers.
func (s *Search) Start() error { return s.p.Start() }

// Tail is the end of its log.
func (s *Search) Tail() string {
	text, _ := os.ReadFile(s.p.Log) // what there is of it
	return string(text[max(0, len(text)-2000):])
}

// Close kills it and removes its data.
func (s *Search) Close() error {
	var err error
	if s.p != nil {
		err = s.Kill()
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}
