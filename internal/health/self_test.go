package health

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/config"
	"eventspine/internal/keyring"
	"eventspine/internal/zmq/curve"
)

// within is how long the tests wait for an answer.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestAServiceAnswersItself(t *testing.T) {
	s := serve(t)
	for range 3 {
		if err := s.Alive(within(t, 5*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
}

// A service whose sockets are bound and not served is not alive, and it is when they are.
func TestASilentServiceIsNotAlive(t *testing.T) {
	for name, c := range map[string]struct {
		common config.Common
		says   string
	}{
		"health socket": {config.Common{Health: "tcp://127.0.0.1:0"}, "tcp://127.0.0.1:"},
		"web":           {config.Common{Metrics: "127.0.0.1:0"}, "/healthz"},
	} {
		t.Run(name, func(t *testing.T) {
			c.common.Log = slog.New(slog.DiscardHandler)
			s, err := Listen(t.Context(), &c.common, nil, prometheus.NewRegistry())
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Alive(within(t, 100*time.Millisecond)); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("nobody serves it: %v", err)
			}
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- s.Run(ctx) }()
			if err := s.Alive(within(t, 5*time.Second)); err != nil {
				t.Errorf("served: %v", err)
			}
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if s.Alive(within(t, 5*time.Second)) == nil {
				t.Error("alive after its end")
			}
		})
	}
}

// With CURVE a service finds its own key, also when the list does not say where it listens.
func TestItAnswersItselfWithCurve(t *testing.T) {
	pair, err := curve.GenerateKeys()
	if err != nil {
		t.Fatal(err)
	}
	c := common()
	c.Curve = config.Curve{CurveKey: pair.Certificate(), CurvePeers: keyring.Peer{Name: "me", Key: pair.Public}.Line()}
	keys, err := keyring.Open(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Listen(t.Context(), c, keys, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	if err := s.Alive(within(t, 5*time.Second)); err != nil {
		t.Error(err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
