package archivetest

import (
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"testing"
	"time"

	"eventspine/internal/archive"
	"eventspine/internal/fault"
)

func testLetters(t *testing.T, f *fixture) {
	ctx := t.Context()
	empty, err := f.Letters(ctx, 10, "")
	must(t, err)
	if empty.Total != 0 || len(empty.Letters) != 0 {
		t.Errorf("an archive without dead letters has %+v", empty)
	}
	if _, err := f.Letter(ctx, "a"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a letter that is not there: %v", err)
	}
	ids := []string{"a", "b/c?d#e%20f", "ü \" \\ + &", "d"}
	want := make([]archive.Letter, len(ids))
	for i, id := range ids {
		e := f.event(t, posted(id, fmt.Sprintf(`,"data":{"deep":"%d\u0000\"","n":12.50}`, i)))
		want[i] = archive.LetterOf(&e, archive.Refusal{Status: 400, Reason: "a reason \"in\" quotes"}, time.UnixMilli(noon+5))
	}
	for range 2 {
		r, err := f.Bury(ctx, want)
		must(t, err)
		if r.Indexed+r.Existing != len(want) {
			t.Fatalf("buried %+v", r)
		}
	}
	f.do(ctx, t, http.MethodPost, "/"+f.name+"-dead/_refresh")
	for _, w := range want {
		got, err := f.Letter(ctx, w.ID)
		if must(t, err); !reflect.DeepEqual(got, w) {
			t.Errorf("letter %q is\n%+v, want\n%+v", w.ID, got, w)
		}
	}
	var found []archive.Letter
	for after := ""; ; {
		p, err := f.Letters(ctx, 3, after)
		must(t, err)
		found = append(found, p.Letters...)
		if after = p.Next; after == "" {
			break
		}
	}
	slices.Reverse(found) // newest first
	if !reflect.DeepEqual(found, want) {
		t.Errorf("found %+v", found)
	}
	if n, err := f.Count(ctx, archive.Query{AnyUser: true}); n != 0 || err != nil {
		t.Errorf("%d dead letters count as events, %v", n, err)
	}
	must(t, f.Unbury(ctx, ids[1]))
	if err := f.Unbury(ctx, ids[1]); fault.KindOf(err) != fault.NotFound {
		t.Errorf("removed twice: %v", err)
	}
	left, err := f.Letters(ctx, 10, "")
	if must(t, err); left.Total != int64(len(ids)-1) {
		t.Errorf("%d are left", left.Total)
	}
	must(t, f.PurgeLetters(ctx))
	must(t, f.PurgeLetters(ctx))
	left, err = f.Letters(ctx, 10, "")
	if must(t, err); left.Total != 0 {
		t.Errorf("%d are left after the purge", left.Total)
	}
}

func testDisk(t *testing.T, f *fixture) {
	f.all(t, f.event(t, posted("a", "")))
	d, err := f.Disk(t.Context())
	if must(t, err); len(d.Blocked) > 0 || d.Used < 0 || d.Used > 1 {
		t.Errorf("the disk is %+v", d)
	}
}
