package bridge

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"eventspine/internal/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func short(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// stored is an event as the worker publishes it.
func stored(user, typ string, seq uint64, at int64) []byte {
	raw := fmt.Appendf(nil, `{"id":"%s-%d","type":%q,"userId":%q,"timestamp":%d,"processed":true,"processedAt":%d}`, user, seq, typ, user, at-1, at)
	return event.Splice(raw, event.AppendPosition(nil, event.Position{Partition: event.Partition(user, "", 16), Seq: seq, Epoch: 1}))
}

const noon = int64(1_700_000_000_000)

func freshMetrics() *metrics { return newMetrics(prometheus.NewRegistry()) }
