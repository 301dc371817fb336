package worker

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"eventspine/internal/fault"
	"eventspine/internal/rules"
)

// TestLiveRulesTakeThePlaceOfTheOwn: all or nothing, and the last good set stays.
func TestLiveRulesTakeThePlaceOfTheOwn(t *testing.T) {
	own, err := rules.Default()
	if err != nil {
		t.Fatal(err)
	}
	var now *rules.Set
	l := &liveRules{own: own, use: func(s *rules.Set) { now = s }, m: newMetrics(nil), log: slog.New(slog.DiscardHandler)}
	good := []byte("{name: a, match: x.*, drop: true}")
	for _, step := range []struct {
		name   string
		values map[string][]byte
		want   string
	}{
		{"one", map[string][]byte{"/rules/a": good}, "a"},
		{"a bad one beside it", map[string][]byte{"/rules/a": []byte("{name: a, match: y.*, drop: true}"), "/rules/b": []byte("nonsense")}, "a"},
		{"another", map[string][]byte{"/rules/a": good, "/rules/b": []byte("{name: b, match: y.*, drop: true}")}, "a b"},
		{"none", nil, strings.Join(own.Names(), " ")},
	} {
		l.changed(step.values)
		if got := strings.Join(now.Names(), " "); got != step.want {
			t.Errorf("%s: %q in force, want %q", step.name, got, step.want)
		}
	}
	if changes, refused := testutil.ToFloat64(l.m.ruleSets), testutil.ToFloat64(l.m.refusedRuleSets); changes != 3 || refused != 1 {
		t.Errorf("%v changes, %v refused", changes, refused)
	}
}

func TestNoClone(t *testing.T) {
	var l *liveRules
	l.wait(t.Context())
	if err := l.follow(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCloneSetting(t *testing.T) {
	c := DefaultConfig()
	c.Bind, c.Health, c.Metrics, c.Clone = "tcp://127.0.0.1:0", "", "", []string{"tcp://here"}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := Open(ctx, c); fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "ZMQ_CLONE") {
		t.Errorf("got %v", err)
	}
}
