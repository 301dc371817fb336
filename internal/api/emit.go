package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"eventspine/internal/auth"
	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/ingest"
)

// The media types of events.
const (
	typeJSON       = "application/json"
	typeLines      = "application/x-ndjson"
	typeCloud      = "application/cloudevents+json"
	typeCloudBatch = "application/cloudevents-batch+json"
)

const keyHeader = "Idempotency-Key"

// parser makes an event from the bytes a caller sent.
type parser func(raw []byte) (event.Event, error)

// postEvent takes one event in: JSON, or a CloudEvent in structured mode.
func (a *api) postEvent(w http.ResponseWriter, r *http.Request, who auth.Identity) error {
	wait, err := wantsStored(r)
	var e event.Event
	if err == nil {
		e, err = a.readEvent(w, r, who)
	}
	return a.emit(w, r, e, wait, nil, err)
}

// wantsStored reads the parameter ack: whether the answer is to come when the event is stored,
// and not when it is on disk.
func wantsStored(r *http.Request) (bool, error) {
	if r.URL.RawQuery == "" {
		return false, nil
	}
	switch values := r.URL.Query()["ack"]; {
	case len(values) == 0:
		return false, nil
	case len(values) == 1 && values[0] == "stored":
		return true, nil
	}
	return false, fault.BadFields("read query", fault.Field{Name: "ack", Reason: "must be stored, once; leave it out to be answered when the event is on disk"})
}

// emit keeps one complete event and answers: with 202 when it is on disk, or with 201 and a
// receipt when somebody waits and it is stored in time. extra are members of the answer, each
// with a leading comma; err is what was wrong before.
func (a *api) emit(w http.ResponseWriter, r *http.Request, e event.Event, wait bool, extra []byte, err error) error {
	var receipts []*ingest.Receipt
	if err == nil {
		receipts, err = a.keep(r.Context(), []event.Event{e}, wait)
	}
	if err != nil {
		a.metrics.refuse(err)
		return err
	}
	var receipt *ingest.Receipt
	if wait {
		receipt = receipts[0]
	}
	status, word := http.StatusAccepted, `{"status":"accepted","id":`
	if receipt != nil {
		status, word = http.StatusCreated, `{"status":"stored","id":`
	}
	body := append(make([]byte, 0, 128+len(e.ID)), word...)
	body = append(event.AppendString(body, e.ID), extra...)
	writeJSON(w, status, append(appendReceipt(body, receipt), '}'))
	return nil
}

// keep writes events to the log, all or none. Where wait says so, it gives them time to be stored:
// those that are have a receipt, the others nil. Otherwise there are no receipts.
func (a *api) keep(ctx context.Context, events []event.Event, wait bool) (receipts []*ingest.Receipt, err error) {
	var waiting *ingest.Waiting
	if wait {
		waiting, err = a.send.AppendWait(ctx, events)
	} else {
		err = a.send.Append(ctx, events)
	}
	if err != nil {
		return nil, err
	}
	a.metrics.accepted.Add(float64(len(events)))
	a.statsd.Received(len(events))
	if !wait {
		return nil, nil
	}
	defer waiting.End()
	ctx, cancel := context.WithTimeout(ctx, a.patience)
	defer cancel()
	return waiting.Receipts(ctx), nil
}

// appendReceipt appends members with a leading comma; r may be nil.
func appendReceipt(dst []byte, r *ingest.Receipt) []byte {
	if r == nil {
		return dst
	}
	dst = strconv.AppendInt(append(dst, `,"partition":`...), int64(r.Partition), 10)
	if r.Seq > 0 {
		dst = strconv.AppendUint(append(dst, `,"seq":`...), r.Seq, 10)
	}
	if r.Epoch > 0 {
		dst = strconv.AppendUint(append(dst, `,"epoch":`...), r.Epoch, 10)
	}
	return dst
}

func (a *api) readEvent(w http.ResponseWriter, r *http.Request, who auth.Identity) (event.Event, error) {
	parse := event.Parse
	switch media, err := mediaType(r); {
	case err != nil:
		return event.Event{}, err
	case media == typeCloud:
		parse = event.ParseCloudEvent
	case media != typeJSON:
		return event.Event{}, refuse(badMedia, "Send "+typeJSON+" or "+typeCloud+"; batches go to /api/events/batch.")
	}
	key, err := idempotencyKey(r)
	if err != nil {
		return event.Event{}, err
	}
	body, err := readBody(w, r, event.MaxBytes)
	if err != nil {
		return event.Event{}, err
	}
	e, err := parse(body)
	if err != nil {
		return event.Event{}, err
	}
	if err := admit(&e, who, key); err != nil {
		return event.Event{}, err
	}
	e.Complete(time.Now(), a.source)
	return e, nil
}

// admit checks that the caller may emit the event, and gives it the id of the header and the
// userId of an ordinary caller where it has none.
func admit(e *event.Event, who auth.Identity, key string) error {
	var extra []byte
	switch {
	case key == "" || key == e.ID:
	case e.ID != "":
		return fault.BadFields("admit event", fault.Field{Name: "id",
			Reason: "differs from the header " + keyHeader + "; give one of them, or the same value in both"})
	default:
		e.ID = key
		extra = event.AppendString(append(extra, `,"id":`...), key)
	}
	if e.UserID != who.Subject && !who.Has(auth.ScopeEmit) {
		if e.UserID != "" || hasMember(e.Raw, "userId") {
			return needScope(auth.ScopeEmit, "userId is not your own: without the scope emit a caller emits events for itself only. "+
				"Leave userId out, or ask for a token with the scope emit.")
		}
		e.UserID = who.Subject
		extra = event.AppendString(append(extra, `,"userId":`...), who.Subject)
	}
	e.Raw = event.Splice(e.Raw, extra)
	return nil
}

// hasMember reports whether the valid JSON object raw has a member of this name at its top.
func hasMember(raw []byte, name string) bool {
	if !bytes.Contains(raw, []byte(name)) && bytes.IndexByte(raw, '\\') < 0 {
		return false
	}
	found := false
	_ = event.Members(raw, func(n string, _ jsontext.Value) { found = found || n == name }) // raw is valid
	return found
}

// mediaType is the media type of the request's body, application/json when it names none.
func mediaType(r *http.Request) (string, error) {
	header := r.Header.Get("Content-Type")
	if header == typeJSON || header == "" {
		return typeJSON, nil
	}
	media, params, err := mime.ParseMediaType(header)
	if err != nil {
		return "", refuse(badMedia, "The header Content-Type is not a media type.")
	}
	if c, ok := params["charset"]; ok && !strings.EqualFold(c, "utf-8") {
		return "", refuse(badMedia, "The body must be in UTF-8.")
	}
	return media, nil
}

// idempotencyKey is the id that the header gives a single event, or empty. The value may be
// quoted, as in the IETF draft, or bare.
func idempotencyKey(r *http.Request) (string, error) {
	values := r.Header[keyHeader]
	if len(values) == 0 {
		return "", nil
	}
	key := strings.TrimSpace(values[0])
	if n := len(key); n >= 2 && key[0] == '"' && key[n-1] == '"' {
		key = key[1 : n-1]
	}
	reason := ""
	switch {
	case len(values) > 1:
		reason = "is given more than once"
	case key == "":
		reason = "must not be empty"
	case len(key) > event.MaxID:
		reason = "must have at most 128 bytes"
	case !utf8.ValidString(key) || strings.ContainsFunc(key, unicode.IsControl):
		reason = "must be UTF-8 without control characters"
	default:
		return key, nil
	}
	return "", fault.BadFields("read header", fault.Field{Name: keyHeader, Reason: reason})
}

// readBody reads at most limit bytes; a longer body is TooLarge.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, overLimit(limit)
	}
	if r.ContentLength >= 0 {
		body := make([]byte, r.ContentLength)
		_, err := io.ReadFull(r.Body, body)
		return body, bodyError(err)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	return body, bodyError(err)
}

func overLimit(limit int64) error {
	return fault.Errorf("read body", fault.TooLarge, "The body has more than %d bytes.", limit)
}

func bodyError(err error) error {
	if err == nil {
		return nil
	}
	if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
		return overLimit(large.Limit)
	}
	return fault.Errorf("read body", fault.Invalid, "The body could not be read to its end.")
}
