package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"eventspine/internal/auth"
	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/ingest"
)

// Limits of a batch.
const (
	maxBatchBytes  = 5 << 20
	maxBatchEvents = 5000
)

// answer is what became of one item of a batch.
type answer struct {
	id      string
	err     error
	receipt *ingest.Receipt // it is stored
}

// batch collects the items of one request. Nothing is kept before the whole body was read, so
// that a request that is refused as a whole leaves no trace.
type batch struct {
	api     *api
	who     auth.Identity
	parse   parser
	now     time.Time
	answers []answer
	events  []event.Event
	at      []int // the answer that belongs to each event
}

// postBatch takes up to 5,000 events in and answers for each by itself.
func (a *api) postBatch(w http.ResponseWriter, r *http.Request, who auth.Identity) error {
	wait, err := wantsStored(r)
	var b *batch
	if err == nil {
		b, err = a.readBatch(w, r, who)
	}
	if err != nil {
		a.metrics.refuse(err)
		return err
	}
	accepted, stored := b.send(r.Context(), wait)
	b.write(w, accepted, stored)
	return nil
}

func (a *api) readBatch(w http.ResponseWriter, r *http.Request, who auth.Identity) (*batch, error) {
	b := &batch{api: a, who: who, parse: event.Parse, now: time.Now()}
	split := splitArray
	switch media, err := mediaType(r); {
	case err != nil:
		return nil, err
	case media == typeLines:
		split = splitLines
	case media == typeCloudBatch:
		b.parse = event.ParseCloudEvent
	case media != typeJSON:
		return nil, refuse(badMedia, "Send "+typeJSON+" (an array), "+typeLines+" or "+typeCloudBatch+".")
	}
	if _, ok := r.Header[keyHeader]; ok {
		return nil, fault.BadFields("read header", fault.Field{Name: keyHeader, Reason: "is for single events; give each event of a batch an id"})
	}
	if r.ContentLength > maxBatchBytes {
		return nil, overLimit(maxBatchBytes)
	}
	select {
	case a.batches <- struct{}{}:
		defer func() { <-a.batches }()
	default:
		return nil, refuse(tooMany, "The server reads as many batches as it can. Wait as long as Retry-After says.")
	}
	if err := split(http.MaxBytesReader(w, r.Body, maxBatchBytes), b.add); err != nil {
		return nil, err
	}
	return b, nil
}

// add checks one item. raw is only valid during the call; err is what the splitter found wrong
// with this item alone.
func (b *batch) add(raw []byte, err error) error {
	if len(b.answers) == maxBatchEvents {
		return fault.Errorf("read batch", fault.TooLarge, "The batch has more than %d events.", maxBatchEvents)
	}
	var e event.Event
	if err == nil {
		e, err = b.event(raw)
	}
	if err == nil {
		b.events, b.at = append(b.events, e), append(b.at, len(b.answers))
	}
	b.answers = append(b.answers, answer{id: e.ID, err: err})
	return nil
}

func (b *batch) event(raw []byte) (event.Event, error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) > event.MaxBytes {
		return event.Event{}, eventOverLimit()
	}
	e, err := b.parse(bytes.Clone(raw))
	if err != nil {
		return event.Event{}, err
	}
	if err := admit(&e, b.who, ""); err != nil {
		return e, err
	}
	e.Complete(b.now, b.api.source)
	return e, nil
}

func eventOverLimit() error {
	return fault.Errorf("read batch", fault.TooLarge, "The event has more than %d bytes.", event.MaxBytes)
}

// send keeps the good events, all or none. It returns how many were taken, and how many of them are
// known to be stored.
func (b *batch) send(ctx context.Context, wait bool) (accepted, stored int) {
	if len(b.events) == 0 {
		return 0, 0
	}
	receipts, err := b.api.keep(ctx, b.events, wait)
	for n, i := range b.at {
		if b.answers[i].err = err; err != nil {
			continue
		}
		accepted++
		if wait && receipts[n] != nil {
			b.answers[i].receipt = receipts[n]
			stored++
		}
	}
	return accepted, stored
}

func (b *batch) write(w http.ResponseWriter, accepted, stored int) {
	status := http.StatusAccepted
	switch {
	case accepted < len(b.answers):
		status = http.StatusMultiStatus
	case stored > 0 && stored == accepted:
		status = http.StatusCreated
	}
	out := append(make([]byte, 0, 64+80*len(b.answers)), `{"accepted":`...)
	out = strconv.AppendInt(out, int64(accepted), 10)
	out = strconv.AppendInt(append(out, `,"refused":`...), int64(len(b.answers)-accepted), 10)
	out = append(out, `,"results":[`...)
	for i, item := range b.answers {
		if i > 0 {
			out = append(out, ',')
		}
		out = b.appendAnswer(out, w, i, item)
	}
	writeJSON(w, status, append(out, "]}"...))
}

func (b *batch) appendAnswer(out []byte, w http.ResponseWriter, i int, item answer) []byte {
	out = strconv.AppendInt(append(out, `{"index":`...), int64(i), 10)
	if item.id != "" {
		out = event.AppendString(append(out, `,"id":`...), item.id)
	}
	switch {
	case item.receipt != nil:
		return append(appendReceipt(append(out, `,"status":201`...), item.receipt), '}')
	case item.err == nil:
		return append(out, `,"status":202}`...)
	}
	b.api.metrics.refuse(item.err)
	kind, p := describe(item.err)
	if kind.retry != "" {
		w.Header().Set("Retry-After", kind.retry)
	}
	out = strconv.AppendInt(append(out, `,"status":`...), int64(kind.Status), 10)
	problem, err := json.Marshal(p)
	if err != nil { // strings and numbers only: cannot happen
		problem = []byte("null")
	}
	return append(append(append(out, `,"error":`...), problem...), '}')
}

// splitArray calls item for each element of the JSON array in r. An array that is not JSON, or
// goes on after its end, is Invalid as a whole; what item returns ends the split.
func splitArray(r io.Reader, item func(raw []byte, err error) error) error {
	dec := jsontext.NewDecoder(r, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) // Parse is stricter, item by item
	if token, err := dec.ReadToken(); err != nil || token.Kind() != '[' {
		return arrayError(err, "The body must be a JSON array of events.")
	}
	for n := 0; dec.PeekKind() != ']'; n++ {
		raw, err := dec.ReadValue()
		if err != nil {
			return arrayError(err, "The array is not valid JSON at element "+strconv.Itoa(n)+". Nothing of the batch was taken.")
		}
		if err := item(raw, nil); err != nil {
			return err
		}
	}
	if _, err := dec.ReadToken(); err != nil {
		return arrayError(err, "The array does not end.")
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return arrayError(err, "Something follows the array. Nothing of the batch was taken.")
	}
	return nil
}

// arrayError tells a body that ended or is too large from one that is not JSON.
func arrayError(err error, detail string) error {
	var syntax *jsontext.SyntacticError
	if err == nil || errors.Is(err, io.EOF) || errors.As(err, &syntax) && !errors.As(err, new(*http.MaxBytesError)) {
		return fault.Errorf("read batch", fault.Invalid, "%s", detail)
	}
	return bodyError(err)
}

// splitLines calls item for each line of r that is not blank. A line too long for an event is
// skipped and told to item as TooLarge. What item returns ends the split.
func splitLines(r io.Reader, item func(raw []byte, err error) error) error {
	lines := bufio.NewReaderSize(r, 64<<10)
	var line []byte // of what did not fit the buffer
	for {
		part, err := lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			if len(line) <= event.MaxBytes { // past that only the end of the line matters
				line = append(line, part...)
			}
			continue
		}
		last := errors.Is(err, io.EOF)
		if err != nil && !last {
			return bodyError(err)
		}
		if len(line) > 0 {
			line = append(line, part...)
			part = line
		}
		if err := offerLine(part, item); err != nil || last {
			return err
		}
		line = line[:0]
	}
}

func offerLine(line []byte, item func(raw []byte, err error) error) error {
	line = bytes.TrimSpace(line)
	switch {
	case len(line) == 0:
		return nil
	case len(line) > event.MaxBytes:
		return item(nil, eventOverLimit())
	}
	return item(line, nil)
}
