package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/elastic/go-elasticsearch/v8/esapi"
	"golang.org/x/sync/errgroup"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/retry"
)

const (
	pageDocs = 500              // documents that are copied at once
	catchUp  = 1000             // documents that came in during a pass of copying; with fewer, writes are held back for the last pass
	mendTime = 10 * time.Second // for putting things back after a failure
)

// Rebuild copies a day's index into a new one, each document made anew from its event under the
// mapping of today, and puts that in the old one's place; then the old one is gone. It returns how
// many documents the day has.
//
// Searches see the old index until the new one takes its place in one step, so none sees an event
// twice or not at all. What is indexed meanwhile goes to the old one and is copied as well; for the
// last of it the old index takes no writes, for a second or so, in which Index answers that events
// are to be sent again. The step is only taken when both have the same number of documents.
//
// After an error, and when ctx ends, everything is as before. A process that was killed leaves a
// part of a copy and perhaps the old index closed: Mend, or Rebuild again, puts that right. Two
// calls for one day at once must not be. progress, when not nil, is told how many documents were
// copied so far. Errors are of kind Corrupt when a document is refused under the new mapping or
// the counts differ, else as those of Prepare.
func (a *Archive) Rebuild(ctx context.Context, d Day, progress func(docs int64)) (docs int64, err error) {
	if progress == nil {
		progress = func(int64) {}
	}
	b := &rebuild{Archive: a, day: d, to: a.successor(d), passed: make([]int64, d.Shards), progress: progress}
	if err := b.begin(ctx); err != nil {
		return 0, err // an index that was made all the same is empty, and the next Rebuild or Mend removes it
	}
	defer func() {
		if err == nil {
			return
		}
		back, cancel := context.WithTimeout(context.WithoutCancel(ctx), mendTime)
		defer cancel()
		done, late := b.abandon(back)
		switch {
		case late != nil:
			err = fault.Errorf("rebuild index", fault.KindOf(err), "%w; and putting things back failed: %w", err, late)
		case done: // only the answer was lost
			docs, err = b.copied, nil
		}
	}()
	for last := int64(math.MaxInt64); ; {
		n, err := b.pass(ctx)
		if err != nil {
			return 0, err
		}
		if n < catchUp || n > last/2 { // as much comes in as a pass takes: it does not get better
			break
		}
		last = n
	}
	if err := b.close(ctx); err != nil {
		return 0, err
	}
	if _, err := b.pass(ctx); err != nil {
		return 0, err
	}
	return b.swap(ctx)
}

// successor is the name of the index that takes d's place: events_2-2026.11.21. The pattern of the
// daily indices does not fit it.
func (a *Archive) successor(d Day) string {
	n := 1
	if generation, _, ok := a.generation(d.Index); ok {
		n = generation
	}
	return fmt.Sprintf("%s_%d-%s", a.o.Index, n+1, d.Date.Format("2006.01.02"))
}

// generation reads a name that successor gave.
func (a *Archive) generation(index string) (n int, day string, ok bool) {
	rest, ok := strings.CutPrefix(index, a.o.Index+"_")
	if !ok {
		return 0, "", false
	}
	number, date, _ := strings.Cut(rest, "-")
	n, err := strconv.Atoi(number)
	_, isDay := a.dateOf(a.o.Index + "-" + date)
	return n, a.o.Index + "-" + date, err == nil && n > 1 && isDay
}

// rebuild is one call of Rebuild.
type rebuild struct {
	*Archive
	day      Day
	to       string
	keep     bool    // an operator had closed the old index: the new one is closed as well
	passed   []int64 // by shard: the highest operation that was copied, and all before it
	copied   int64
	progress func(int64)
}

// begin makes the new index, and removes one that was left over.
func (b *rebuild) begin(ctx context.Context) error {
	now, err := b.current(ctx)
	if err != nil {
		return err
	}
	if now != b.day.Index {
		return fault.Errorf("rebuild index", fault.Conflict, "%s is no longer the index %s", b.day.Name, b.day.Index)
	}
	err = b.DeleteIndex(ctx, b.to)
	if err != nil && fault.KindOf(err) != fault.NotFound {
		return err
	}
	b.keep = b.day.Closed && err != nil
	for i := range b.passed {
		b.passed[i] = -1
	}
	plan, _, err := b.blueprint()
	if err != nil {
		return err
	}
	plan.Settings["refresh_interval"] = "-1" // nobody searches it before the end
	mappings, err := dated(plan.Mappings, b.day.Created)
	if err != nil {
		return fault.E("make index", fault.Internal, err)
	}
	body, err := json.Marshal(object{"settings": plan.Settings, "mappings": mappings})
	if err != nil {
		return fault.E("make index", fault.Internal, err)
	}
	_, err = b.call(ctx, "make index", esapi.IndicesCreateRequest{Index: b.to, Body: bytes.NewReader(body)})
	return err
}

// dated is the mapping with the time from which the index's age counts, as a copy is no younger
// than what it is a copy of.
func dated(mappings json.RawMessage, created time.Time) (m object, err error) {
	if err = json.Unmarshal(mappings, &m); err != nil || created.IsZero() {
		return m, err
	}
	if meta, ok := m["_meta"].(object); ok {
		meta["created"] = created.UnixMilli()
	}
	return m, nil
}

// current is the index that the day's name stands for; empty: none.
func (b *rebuild) current(ctx context.Context) (string, error) {
	days, err := b.Days(ctx)
	if err != nil {
		return "", err
	}
	for _, d := range days {
		if d.Name == b.day.Name {
			return d.Index, nil
		}
	}
	return "", nil
}

// abandon puts things back as they were, unless the new index has taken the place already.
func (b *rebuild) abandon(ctx context.Context) (done bool, err error) {
	switch now, err := b.current(ctx); {
	case err != nil:
		return false, err
	case now == b.to:
		return true, nil
	case now == b.day.Index && !b.keep:
		if err := b.open(ctx, now); err != nil {
			return false, err
		}
	}
	err = b.DeleteIndex(ctx, b.to)
	if fault.KindOf(err) == fault.NotFound {
		err = nil
	}
	return false, err
}

// close holds writes to the old index back, and waits for those under way.
func (b *rebuild) close(ctx context.Context) error {
	_, err := b.call(ctx, "hold back writes", esapi.IndicesAddBlockRequest{Index: []string{b.day.Index}, Block: "write"})
	return err
}

func (a *Archive) open(ctx context.Context, index string) error {
	_, err := a.call(ctx, "let writes in", esapi.IndicesPutSettingsRequest{Index: []string{index}, Body: strings.NewReader(`{"index.blocks.write":null}`)})
	return err
}

// pass copies what was indexed since the last pass.
func (b *rebuild) pass(ctx context.Context) (docs int64, err error) {
	before := b.copied
	upto, err := b.checkpoints(ctx) // before the refresh: all operations up to there are then visible
	if err != nil {
		return 0, err
	}
	if err := b.refresh(ctx, b.day.Index); err != nil {
		return 0, err
	}
	for shard := range b.passed {
		if err := b.shard(ctx, shard, upto[shard]); err != nil {
			return 0, err
		}
		b.passed[shard] = upto[shard]
	}
	return b.copied - before, nil
}

func (a *Archive) refresh(ctx context.Context, index string) error {
	_, err := a.call(ctx, "refresh", esapi.IndicesRefreshRequest{Index: []string{index}})
	return err
}

// checkpoints is, for each shard, the operation up to which all are done.
func (b *rebuild) checkpoints(ctx context.Context) ([]int64, error) {
	const op = "read checkpoints"
	answer, err := b.call(ctx, op, esapi.IndicesStatsRequest{Index: []string{b.day.Index}, Level: "shards"})
	if err != nil {
		return nil, err
	}
	var got struct {
		Indices map[string]struct {
			Shards map[string][]struct {
				SeqNo struct {
					Local *int64 `json:"local_checkpoint"`
				} `json:"seq_no"`
			} `json:"shards"`
		} `json:"indices"`
	}
	if err := json.Unmarshal(answer, &got); err != nil {
		return nil, fault.E(op, fault.Unavailable, err)
	}
	out := make([]int64, len(b.passed))
	for shard := range out {
		copies := got.Indices[b.day.Index].Shards[strconv.Itoa(shard)]
		if len(copies) == 0 {
			return nil, fault.Errorf(op, fault.Unavailable, "shard %d of %s does not answer", shard, b.day.Index)
		}
		for i, c := range copies {
			if c.SeqNo.Local == nil {
				return nil, fault.Errorf(op, fault.Unavailable, "shard %d of %s tells no checkpoint", shard, b.day.Index)
			}
			if i == 0 || *c.SeqNo.Local < out[shard] {
				out[shard] = *c.SeqNo.Local
			}
		}
	}
	return out, nil
}

type copyHit struct {
	ID     string          `json:"_id"`
	Source json.RawMessage `json:"_source"`
	Sort   []int64         `json:"sort"`
}

// shard copies the operations after those copied before, up to upto. A page is written while the
// next is read.
func (b *rebuild) shard(ctx context.Context, shard int, upto int64) error {
	g, gctx := errgroup.WithContext(ctx)
	pages := make(chan []copyHit)
	g.Go(func() error {
		defer close(pages)
		for after := b.passed[shard]; after < upto; {
			page, err := b.read(gctx, shard, after, upto)
			if err != nil || len(page) == 0 {
				return err
			}
			after = page[len(page)-1].Sort[0]
			select {
			case pages <- page:
			case <-gctx.Done():
				return gctx.Err()
			}
		}
		return nil
	})
	g.Go(func() error {
		for page := range pages {
			if err := b.write(gctx, page); err != nil {
				return err
			}
			b.copied += int64(len(page))
			b.progress(b.copied)
		}
		return nil
	})
	return g.Wait()
}

// patient repeats what a busy Elasticsearch refuses, until ctx ends.
var patient = retry.Policy{Min: 100 * time.Millisecond}

func (b *rebuild) read(ctx context.Context, shard int, after, upto int64) ([]copyHit, error) {
	const op = "read page"
	body, err := json.Marshal(object{
		"size": pageDocs, "track_total_hits": false,
		"query": object{"range": object{"_seq_no": object{"gt": after, "lte": upto}}},
		"sort":  []object{{"_seq_no": object{"order": "asc"}}},
	})
	if err != nil {
		return nil, fault.E(op, fault.Internal, err)
	}
	no := false
	var answer []byte
	err = patient.Forever(ctx, func(ctx context.Context) (err error) {
		answer, err = b.call(ctx, op, esapi.SearchRequest{Index: []string{b.day.Index}, Body: bytes.NewReader(body),
			Preference: fmt.Sprintf("_shards:%d", shard), AllowPartialSearchResults: &no})
		return err
	}, nil)
	if err != nil {
		return nil, err
	}
	var got struct {
		Hits struct {
			Hits []copyHit `json:"hits"`
		} `json:"hits"`
	}
	if err := json.Unmarshal(answer, &got); err != nil {
		return nil, fault.E(op, fault.Unavailable, err)
	}
	for _, h := range got.Hits.Hits {
		if len(h.Sort) != 1 {
			return nil, fault.Errorf(op, fault.Unavailable, "a hit without its place")
		}
	}
	return got.Hits.Hits, nil
}

// write puts a page into the new index. What is there already stays.
func (b *rebuild) write(ctx context.Context, page []copyHit) error {
	const op = "write page"
	to := &builder{}
	for i := range page {
		doc, err := renew(&page[i])
		if err != nil {
			return fault.Errorf(op, fault.Corrupt, "document %q: %w", page[i].ID, err)
		}
		to.buf = event.AppendString(append(to.buf, `{"create":{"_index":`...), b.to)
		to.buf = event.AppendString(append(to.buf, `,"_id":`...), page[i].ID)
		to.buf = append(append(append(to.buf, "}}\n"...), doc...), '\n')
		to.ends, to.place = append(to.ends, len(to.buf)), append(to.place, i)
	}
	return patient.Forever(ctx, func(ctx context.Context) error {
		s := sending{archive: b.Archive, id: func(i int) string { return page[i].ID }, builder: to}
		r, err := s.all(ctx)
		switch {
		case err != nil:
			return err
		case len(r.Refused) > 0:
			return fault.Errorf(op, fault.Corrupt, "%d documents are refused under the new mapping, the first is %q: %s", len(r.Refused), r.Refused[0].ID, r.Refused[0].Reason)
		}
		return r.Cause
	}, nil)
}

// renew is a document made anew of its event; one that is not ours is taken as it is.
func renew(h *copyHit) ([]byte, error) {
	if raw, err := restore(h.Source); err == nil {
		if e, err := event.ParseStored(raw); err == nil {
			b := builder{}
			if err := b.add(0, &e); err == nil {
				_, doc, _ := bytes.Cut(b.buf, []byte("\n"))
				return bytes.TrimSuffix(doc, []byte("\n")), nil
			}
		}
	}
	var line bytes.Buffer
	err := json.Compact(&line, h.Source)
	return line.Bytes(), err
}

// swap puts the new index in the old one's place, when both have the same number of documents.
func (b *rebuild) swap(ctx context.Context) (docs int64, err error) {
	const op = "swap index"
	if err := b.refresh(ctx, b.to); err != nil {
		return 0, err
	}
	docs, err = b.count(ctx, b.to)
	if err != nil {
		return 0, err
	}
	was, err := b.count(ctx, b.day.Index)
	if err != nil {
		return 0, err
	}
	if docs != was {
		return 0, fault.Errorf(op, fault.Corrupt, "%s has %d documents and its copy %d; nothing was changed", b.day.Name, was, docs)
	}
	settings := object{"index.refresh_interval": fmt.Sprintf("%dms", b.o.Refresh.Milliseconds())}
	if b.keep {
		settings["index.blocks.write"] = true
	}
	if err := b.send(ctx, settings, func(body *bytes.Reader) esapi.Request {
		return esapi.IndicesPutSettingsRequest{Index: []string{b.to}, Body: body}
	}); err != nil {
		return 0, err
	}
	return docs, b.send(ctx, object{"actions": []object{
		{"remove_index": object{"index": b.day.Index}},
		{"add": object{"index": b.to, "alias": b.day.Name}},
		{"add": object{"index": b.to, "alias": b.o.Index}},
	}}, func(body *bytes.Reader) esapi.Request { return esapi.IndicesUpdateAliasesRequest{Body: body} })
}

// send makes one request with a body of JSON.
func (b *rebuild) send(ctx context.Context, body object, request func(*bytes.Reader) esapi.Request) error {
	const op = "swap index"
	text, err := json.Marshal(body)
	if err != nil {
		return fault.E(op, fault.Internal, err)
	}
	_, err = b.call(ctx, op, request(bytes.NewReader(text)))
	return err
}

func (a *Archive) count(ctx context.Context, index string) (int64, error) {
	const op = "count documents"
	answer, err := a.call(ctx, op, esapi.CountRequest{Index: []string{index}})
	if err != nil {
		return 0, err
	}
	var got struct {
		Count  int64 `json:"count"`
		Shards struct {
			Failed int `json:"failed"`
		} `json:"_shards"`
	}
	if err := json.Unmarshal(answer, &got); err != nil {
		return 0, fault.E(op, fault.Unavailable, err)
	}
	if got.Shards.Failed > 0 {
		return 0, fault.Errorf(op, fault.Unavailable, "%d shards did not answer", got.Shards.Failed)
	}
	return got.Count, nil
}

// CountDay is how many documents a day's index has. Errors are as those of Search.
func (a *Archive) CountDay(ctx context.Context, d Day) (int64, error) { return a.count(ctx, d.Index) }

// Mend puts right what a Rebuild left that was killed: parts of copies are deleted, and an index
// that was closed for one takes writes again. It returns the names of the days. No Rebuild may be
// under way. Errors are as those of Prepare.
func (a *Archive) Mend(ctx context.Context) (mended []string, err error) {
	answer, err := a.call(ctx, "look for copies", esapi.IndicesGetRequest{Index: []string{a.o.Index + "_*-*.*.*"}})
	if err != nil {
		return nil, err
	}
	var found map[string]layout
	if err := json.Unmarshal(answer, &found); err != nil {
		return nil, fault.E("look for copies", fault.Unavailable, err)
	}
	left := map[string]string{} // by day
	for index, l := range found {
		_, name, ok := a.generation(index)
		if _, used := l.Aliases[name]; ok && !used {
			left[name] = index
		}
	}
	if len(left) == 0 {
		return nil, nil
	}
	days, err := a.Days(ctx)
	if err != nil {
		return nil, err
	}
	for _, d := range days { // first open, then delete: what is left tells that there is something to open
		if left[d.Name] != "" && d.Closed {
			if err := a.open(ctx, d.Index); err != nil {
				return mended, err
			}
		}
	}
	for name, index := range left {
		if err := a.DeleteIndex(ctx, index); err != nil && fault.KindOf(err) != fault.NotFound {
			return mended, err
		}
		mended = append(mended, name)
	}
	return mended, nil
}
