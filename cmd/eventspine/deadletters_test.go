package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"eventspine/internal/archive"
	"eventspine/internal/embedded/search"
	"eventspine/internal/fault"
)

func TestDeadletters(t *testing.T) {
	es, err := search.Start(t.Context(), search.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = es.Close() })
	a, err := archive.New(archive.Options{URLs: []string{es.URL()}})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	ctx := t.Context()
	if err := a.Prepare(ctx); err != nil {
		t.Fatal(err)
	}
	var letters []archive.Letter
	for i, id := range []string{"good", "better", "b a/d"} {
		seq := fmt.Sprint(i + 1)
		if id == "b a/d" {
			seq = `"no number"`
		}
		raw := fmt.Sprintf(`{"id":%q,"type":"order.created","userId":"42","timestamp":%d,"partition":1,"seq":%s,"prev":{"user":0,"feed":0},"epoch":7}`, id, 1_700_000_000_000+i, seq)
		letters = append(letters, archive.Letter{ID: id, Type: "order.created", UserID: "42", Timestamp: int64(1_700_000_000_000 + i), Partition: 1, Seq: uint64(i + 1),
			RefusedAt: time.Now().UnixMilli(), Status: 400, Reason: "a reason\nof two lines", Raw: raw})
	}
	if _, err := a.Bury(ctx, letters); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		c := root()
		c.SetOut(&out)
		c.SetErr(&out)
		c.SetArgs(append(append([]string{"deadletters"}, args...), "--es", es.URL(), "--dir", t.TempDir()))
		err := c.ExecuteContext(context.WithoutCancel(ctx))
		return out.String(), err
	}
	check := func(want string, kind fault.Kind, args ...string) {
		t.Helper()
		out, err := run(args...)
		if !strings.Contains(out+fmt.Sprint(err), want) || (err == nil) != (kind == fault.Internal) || err != nil && fault.KindOf(err) != kind {
			t.Errorf("%v: %v\n%s\nwant %q", args, err, out, want)
		}
	}
	const fine = fault.Internal
	check("3 of 3 dead letters", fine, "list")
	check("2 of 3 dead letters", fine, "list", "--limit", "2")
	check("a reason of two lines\n{\"id\":\"good\"", fine, "show", "good")
	check("no dead letter", fault.NotFound, "show", "other")
	check("give ids, or --all", fault.Invalid, "retry")
	check("give ids, or --all", fault.Invalid, "purge", "good", "--all")
	check(`"good" is indexed`, fine, "retry", "good")
	check("1 of 2 events were refused again", fault.Conflict, "retry", "--all")
	if n, err := a.Count(ctx, archive.Query{AnyUser: true}); n != 2 || err != nil {
		t.Errorf("%d events are indexed, %v", n, err)
	}
	check("1 of 1 dead letters", fine, "list")
	check("1 dead letters are removed", fine, "purge", "b a/d")
	check("0 of 0 dead letters", fine, "list")
	if _, err := a.Bury(ctx, letters[:2]); err != nil {
		t.Fatal(err)
	}
	check("2 dead letters are removed", fine, "purge", "--all")
	check("0 of 0 dead letters", fine, "list")
}
