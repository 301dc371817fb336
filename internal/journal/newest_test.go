package journal_test

import (
	"fmt"
	"testing"

	"github.com/redis/go-redis/v9"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/journal"
)

func TestNewestOfManyUsers(t *testing.T) {
	onEach(t, nil, func(t *testing.T, j *journal.Journal, client redis.UniversalClient) {
		var users []string
		want := map[string]uint64{}
		for i := range 300 { // more than one round trip
			user := fmt.Sprint("user-", i)
			users = append(users, user)
			if i%3 > 0 {
				continue
			}
			for k := range 2 {
				want[user] = add(t, j, entry(fmt.Sprint(user, k), user, true))[0].Seq
			}
			add(t, j, entry(fmt.Sprint(user, "-index-only"), user, false))
		}
		users = append(users, event.Everybody)
		want[event.Everybody] = add(t, j, entry("all", event.Everybody, true))[0].Seq
		got, err := j.Newest(t.Context(), users)
		if err != nil {
			t.Fatal(err)
		}
		for i, user := range users {
			if got[i] != want[user] {
				t.Errorf("the newest of %s is %d, want %d", user, got[i], want[user])
			}
		}
		if err := client.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := j.Newest(t.Context(), users); fault.KindOf(err) != fault.Unavailable && fault.KindOf(err) != fault.Internal {
			t.Errorf("without a connection: %v", err)
		}
	})
}
