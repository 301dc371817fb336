package replay

import (
	"fmt"
	"testing"

	"go.uber.org/goleak"

	"eventspine/internal/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stored is an event as the journal gives it.
func stored(user, typ string, seq uint64, at int64) []byte {
	raw := fmt.Appendf(nil, `{"id":"%s-%d","type":%q,"userId":%q,"timestamp":%d,"processed":true,"processedAt":%d}`, user, seq, typ, user, at-1, at)
	return event.Splice(raw, event.AppendPosition(nil, event.Position{Partition: event.Partition(user, "", 16), Seq: seq, Epoch: 1}))
}
