package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"eventspine/internal/archive"
	"eventspine/test/harness"
)

// TestLateJoiners starts the system in another order each time, with pauses, and posts events as
// soon as every process says that it is ready: none of them is missed, by browser or index.
func TestLateJoiners(t *testing.T) {
	const rounds, events = 20, 25
	for round := range rounds {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("the order is that of seed %d", seed)
			s := startWith(t, harness.Options{Workers: 1 + round%2, Proxies: 1 + round/2%2, Launch: shuffled(seed)})
			postAtOnce(t, s, events)
		})
	}
}

// shuffled starts processes one by one in a random order, with up to 150 ms between them.
func shuffled(seed uint64) func([]*harness.Process) error {
	r := rand.New(rand.NewPCG(seed, 0))
	return func(all []*harness.Process) error {
		for _, i := range r.Perm(len(all)) {
			if err := all[i].Start(); err != nil {
				return err
			}
			<-time.After(time.Duration(r.Int64N(int64(150 * time.Millisecond))))
		}
		return nil
	}
}

func postAtOnce(t *testing.T, s *harness.System, events int) {
	t.Helper()
	ana := goBrowsers{}.connect(t, s.BridgeURL, harness.Token("ana"))
	token := harness.Token("sender", "emit")
	var want []string
	var posts sync.WaitGroup
	for i := range events {
		id := fmt.Sprintf("e%02d", i)
		want = append(want, id)
		posts.Go(func() {
			body := fmt.Sprintf(`{"id":%q,"type":"notification.check","userId":"ana"}`, id)
			if status, answer := post(t, s.APIURL+"/api/events", token, "application/json", []byte(body)); status != http.StatusAccepted {
				t.Errorf("POST: %d %s", status, answer)
			}
		})
	}
	posts.Wait()
	eventually(t, 10*time.Second, func() bool { return len(ana.events()) >= events },
		func() string { return fmt.Sprintf("ana got %d of %d", len(ana.events()), events) })
	var got []string
	for _, e := range ana.events() {
		got = append(got, e.ID)
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("ana got %v", got)
	}
	index, err := archive.New(archive.Options{URLs: []string{s.ES}})
	if err != nil {
		t.Fatal(err)
	}
	defer index.Close()
	var n int64
	eventually(t, 10*time.Second, func() bool {
		n, err = index.Count(t.Context(), archive.Query{AnyUser: true})
		return err == nil && n == int64(events)
	}, func() string { return fmt.Sprintf("the index has %d of %d (%v)", n, events, err) })
}
