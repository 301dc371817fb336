package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/elastic/go-elasticsearch/v8/esapi"

	"eventspine/internal/event"
	"eventspine/internal/fault"
)

// Result accounts for every event given to Index: Indexed + Existing + len(Refused) +
// len(Retry) is their number.
type Result struct {
	Indexed  int           // new documents
	Existing int           // were there before
	Refused  []Refusal     // will never be taken; sending them again does not help
	Retry    []int         // places in the batch of the events to send again, in order
	Wait     time.Duration // how long Elasticsearch asked to wait before that; 0 when it did not say
	Cause    error         // why the first of Retry was not taken; Overloaded or Unavailable
}

// Refusal is an event that Elasticsearch will not take, and why.
type Refusal struct {
	Doc    int // place in the batch
	ID     string
	Reason string // no payload in it
	Status int    // HTTP status that Elasticsearch gave the event; 400 when it was never sent
}

// Index stores the events, each under its own id in the index of its own day, and accounts
// for each in the Result. An event whose id is in that index already is left as it is and
// counted as Existing, so the same batch may be sent again. A request that is too large, or
// refused as a whole, is split until only what is to blame is refused.
//
// The error is of kind Unavailable or Overloaded, and means that not one event is known to
// have arrived: Result holds Wait and is empty otherwise, and the whole batch is to be sent
// again. Safe for concurrent use; at most 2 to 4 calls at once are good for Elasticsearch.
func (a *Archive) Index(ctx context.Context, events []event.Event) (Result, error) {
	b := builder{index: a.o.Index}
	s := sending{archive: a, id: func(i int) string { return events[i].ID }, builder: &b}
	for i := range events {
		if err := b.add(i, &events[i]); err != nil {
			s.refuse(i, http.StatusBadRequest, err.Error())
		}
	}
	return s.all(ctx)
}

// all sends what the builder holds, in requests that are not too large.
func (s *sending) all(ctx context.Context) (Result, error) {
	b := s.builder
	for from := 0; from < len(b.ends); {
		to := b.fit(from, s.archive.o.MaxBulk)
		s.send(ctx, from, to)
		from = to
	}
	if !s.answered && s.Cause != nil {
		return Result{Wait: s.Wait}, s.Cause
	}
	return s.Result, nil
}

// fit is the end of the longest run of documents from from that has at most limit bytes, and
// at least one document.
func (b *builder) fit(from, limit int) int {
	to := from + 1
	for to < len(b.ends) && b.ends[to]-b.begin(from) <= limit {
		to++
	}
	return to
}

func (b *builder) begin(i int) int {
	if i == 0 {
		return 0
	}
	return b.ends[i-1]
}

// sending is one call of Index or Bury.
type sending struct {
	Result
	archive  *Archive
	id       func(place int) string
	builder  *builder
	answered bool // Elasticsearch said of at least one document what became of it
	failed   bool // a request failed through no fault of its documents
}

const bulkFilter = "took,errors,items.*.status,items.*.error.type,items.*.error.reason,items.*.error.caused_by.reason"

// send sends the documents from up to to. After a failure that is no document's fault the
// rest of the batch is not tried.
func (s *sending) send(ctx context.Context, from, to int) {
	if s.failed {
		s.again(from, to, s.Cause)
		return
	}
	body := s.builder.buf[s.builder.begin(from):s.builder.ends[to-1]]
	req := esapi.BulkRequest{Body: bytes.NewReader(body), FilterPath: strings.Split(bulkFilter, ",")}
	status, header, answer, err := s.archive.exchange(ctx, req)
	switch {
	case err != nil:
		s.fail(from, to, fault.E("index events", fault.Unavailable, err))
	case status == http.StatusRequestEntityTooLarge, status == http.StatusBadRequest:
		s.split(ctx, from, to, status, answer)
	case status > 299:
		s.wait(header)
		kind := kindOfStatus(status)
		if kind != fault.Overloaded {
			kind = fault.Unavailable
		}
		s.fail(from, to, fault.E("index events", kind, refusal(status, answer)))
	default:
		s.items(from, to, answer)
	}
}

// split halves what was refused as a whole; a single document that is refused is to blame.
func (s *sending) split(ctx context.Context, from, to, status int, answer []byte) {
	if to-from == 1 {
		s.answered = true
		s.refuse(s.builder.place[from], status, refusal(status, answer).Error())
		return
	}
	middle := from + (to-from)/2
	s.send(ctx, from, middle)
	s.send(ctx, middle, to)
}

type item struct {
	Status int    `json:"status"`
	Error  *cause `json:"error"`
}

// items reads what became of each document.
func (s *sending) items(from, to int, answer []byte) {
	var got struct {
		Items []struct{ Create item } `json:"items"`
	}
	if err := json.Unmarshal(answer, &got); err != nil || len(got.Items) != to-from {
		s.fail(from, to, fault.Errorf("index events", fault.Unavailable,
			"the answer speaks of %d documents; %d were sent", len(got.Items), to-from))
		return
	}
	for i := range got.Items {
		s.item(from+i, got.Items[i].Create)
	}
}

func (s *sending) item(doc int, it item) {
	reason := fmt.Sprintf("status %d", it.Status)
	if it.Error != nil {
		reason = withoutPayload(it.Error).String()
	}
	switch status := it.Status; {
	case status >= 200 && status < 300:
		s.answered = true
		s.Indexed++
	case status == http.StatusConflict:
		s.answered = true
		s.Existing++
	case status == http.StatusTooManyRequests:
		s.again(doc, doc+1, fault.Errorf("index events", fault.Overloaded, "%s", reason))
	case status >= 400 && status < 500 && !blameless(it):
		s.answered = true
		s.refuse(s.builder.place[doc], status, reason)
	default:
		s.again(doc, doc+1, fault.Errorf("index events", fault.Unavailable, "%s", reason))
	}
}

// blameless reports whether a document was refused for what an operator has to mend, so that it is
// sent again: a write block, missing rights, no index where none may be made, or no room for a new
// index in the cluster.
func blameless(it item) bool {
	switch it.Status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		return true
	}
	return it.Error != nil && (it.Error.Type == "cluster_block_exception" || it.Error.Type == "validation_exception")
}

// withoutPayload cuts the preview of the document out of a reason, which ends up in logs.
func withoutPayload(c *cause) *cause {
	c.Reason, _, _ = strings.Cut(c.Reason, ". Preview of field's value")
	return c
}

func (s *sending) refuse(place, status int, reason string) {
	s.Refused = append(s.Refused, Refusal{Doc: place, ID: s.id(place), Reason: clip(reason, 500), Status: status})
}

func (s *sending) again(from, to int, err error) {
	if s.Cause == nil {
		s.Cause = err
	}
	s.Retry = append(s.Retry, s.builder.place[from:to]...)
}

func (s *sending) fail(from, to int, err error) {
	s.failed = true
	s.again(from, to, err)
}

func (s *sending) wait(h http.Header) {
	if n, err := strconv.Atoi(h.Get("Retry-After")); err == nil && n > 0 {
		s.Wait = min(time.Duration(n), 60) * time.Second
	}
}
