package redis_test

import (
	"context"
	"testing"

	"go.uber.org/goleak"

	"eventspine/internal/embedded/redis"
	"eventspine/internal/fault"
	"eventspine/internal/rdb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestServerRunsUntilClose(t *testing.T) {
	s, err := redis.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	client, err := rdb.Open(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	if err := rdb.Ping(t.Context(), client); err != nil {
		t.Errorf("a running server: %v", err)
	}
	s.Close()
	s.Close()
	if err := rdb.Ping(t.Context(), client); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("a closed server: %v", err)
	}
}

func TestStartIsRefusedWhenItIsOver(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if s, err := redis.Start(ctx); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("started %v, error %v", s, err)
	}
}
