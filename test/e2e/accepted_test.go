package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"eventspine/internal/journal"
	"eventspine/internal/testkit"
	"eventspine/test/harness"
)

// TestAcceptedIsStored kills api and workers with SIGKILL and wipes Redis while events come in:
// all that was answered 202 is in the journal at the end, once.
func TestAcceptedIsStored(t *testing.T) {
	server := testkit.StartRedis(t, "--appendonly", "yes")
	s := startWith(t, harness.Options{Workers: 2, Redis: server.URL(), ES: embedded.es(t)})
	stop, accepted := make(chan struct{}), make(chan []string, 1)
	var wg sync.WaitGroup
	wg.Go(func() { accepted <- postUntil(t, s, stop) })
	restart := func(processes ...*harness.Process) {
		t.Helper()
		pauseFor(300 * time.Millisecond)
		for _, p := range processes {
			if err := p.Signal(syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
		pauseFor(300 * time.Millisecond)
		for _, p := range processes {
			if err := p.Start(); err != nil {
				t.Error(err)
			}
		}
	}
	restart(s.API)
	restart(s.Workers[0])
	restart(s.Workers[1], s.API)
	restart(s.Workers...)
	if err := wipe(t, server.URL()); err != nil {
		t.Error(err)
	}
	restart(s.API)
	pauseFor(300 * time.Millisecond)
	close(stop)
	wg.Wait()
	ids := <-accepted
	if len(ids) < 100 {
		t.Fatalf("only %d events were accepted", len(ids))
	}
	var missing []string
	eventually(t, 40*time.Second, func() bool {
		times := journalIDs(t, s)
		missing = missing[:0]
		for _, id := range ids {
			if times[id] > 1 {
				t.Fatalf("%s is in the journal %d times", id, times[id])
			}
			if times[id] == 0 {
				missing = append(missing, id)
			}
		}
		return len(missing) == 0
	}, func() string {
		return fmt.Sprintf("%d of %d accepted events are missing, such as %s", len(missing), len(ids), missing[0])
	})
}

// pauseFor lets the load go on; what is waited for is checked at the end.
func pauseFor(d time.Duration) { <-time.After(d) }

// postUntil posts events until stop and returns the ids that were accepted. What is not answered
// is posted again under the same id.
func postUntil(t *testing.T, s *harness.System, stop chan struct{}) (accepted []string) {
	token := harness.Token("sender", "emit")
	client := &http.Client{Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	for i := 0; ; {
		select {
		case <-stop:
			return accepted
		default:
		}
		id := fmt.Sprintf("kept-%d", i)
		body := fmt.Sprintf(`{"id":%q,"type":"notification.kept","userId":"u%d"}`, id, i%50)
		r, err := http.NewRequest(http.MethodPost, s.APIURL+"/api/events", strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return accepted
		}
		r.Header.Set("Authorization", "Bearer "+token)
		res, err := client.Do(r)
		if err != nil {
			pauseFor(5 * time.Millisecond)
			continue
		}
		_ = res.Body.Close()
		switch res.StatusCode {
		case http.StatusAccepted:
			accepted = append(accepted, id)
			i++
		case http.StatusServiceUnavailable:
			pauseFor(5 * time.Millisecond)
		default:
			t.Errorf("answered %d", res.StatusCode)
			return accepted
		}
	}
}

func wipe(t *testing.T, url string) error {
	o, err := redis.ParseURL(url)
	if err != nil {
		return err
	}
	c := redis.NewClient(o)
	defer func() { _ = c.Close() }()
	return c.FlushAll(t.Context()).Err()
}

// journalIDs counts how often each id is in the journal.
func journalIDs(t *testing.T, s *harness.System) map[string]int {
	t.Helper()
	j := openJournal(t, s)
	times := map[string]int{}
	for p := range journal.DefaultOptions().Partitions {
		for last := uint64(0); ; {
			list, err := j.Read(t.Context(), p, last, 500)
			if err != nil {
				t.Fatal(err)
			}
			if len(list) == 0 {
				break
			}
			for _, raw := range list {
				e := look("", raw)
				last = e.Seq
				times[e.ID]++
			}
		}
	}
	return times
}

// TestReceiptOverTheWholeWay asks for receipts of the running system.
func TestReceiptOverTheWholeWay(t *testing.T) {
	s := start(t, embedded, 1)
	token := harness.Token("sender", "emit")
	for i := range 5 {
		body := fmt.Appendf(nil, `{"id":"r-%d","type":"notification.check","userId":"ana"}`, i)
		status, answer := post(t, s.APIURL+"/api/events?ack=stored", token, "application/json", body)
		if status != http.StatusCreated || !bytes.HasPrefix(answer, fmt.Appendf(nil, `{"status":"stored","id":"r-%d","partition":`, i)) || !bytes.Contains(answer, []byte(`"epoch":`)) {
			t.Fatalf("answered %d %s", status, answer)
		}
		again, repeat := post(t, s.APIURL+"/api/events?ack=stored", token, "application/json", body)
		if again != http.StatusCreated || !bytes.Equal(repeat, answer) {
			t.Errorf("the repeat was answered %d %s, the first %s", again, repeat, answer)
		}
	}
}
