package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"eventspine/internal/auth"
	"eventspine/internal/event"
	"eventspine/internal/fault"
)

const (
	maxItems  = 1000
	maxAmount = 1e12
)

// postOrder takes an order of the token's user and emits order.created for it. The order's id
// is the event's id: the Idempotency-Key header's, or a new one.
func (a *api) postOrder(w http.ResponseWriter, r *http.Request, who auth.Identity) error {
	wait, err := wantsStored(r)
	var e event.Event
	if err == nil {
		e, err = a.readOrder(w, r, who)
	}
	return a.emit(w, r, e, wait, event.AppendString([]byte(`,"orderId":`), e.ID), err)
}

func (a *api) readOrder(w http.ResponseWriter, r *http.Request, who auth.Identity) (event.Event, error) {
	const op = "read order"
	if media, err := mediaType(r); err != nil {
		return event.Event{}, err
	} else if media != typeJSON {
		return event.Event{}, refuse(badMedia, "Send "+typeJSON+".")
	}
	id, err := idempotencyKey(r)
	if err != nil {
		return event.Event{}, err
	}
	if id == "" {
		id = uuid.Must(uuid.NewV7()).String()
	}
	body, err := readBody(w, r, event.MaxBytes)
	if err != nil {
		return event.Event{}, err
	}
	body = bytes.TrimSpace(body)
	if len(body) == 0 || body[0] != '{' {
		return event.Event{}, fault.Errorf(op, fault.Invalid, "The order must be a JSON object.")
	}
	if err := checkOrder(body); err != nil {
		return event.Event{}, err
	}
	raw := event.AppendString([]byte(`{"id":`), id)
	raw = event.AppendString(append(raw, `,"type":"order.created","userId":`...), who.Subject)
	raw = strconv.AppendInt(append(raw, `,"timestamp":`...), time.Now().UnixMilli(), 10)
	if a.source != "" {
		raw = event.AppendString(append(raw, `,"source":`...), a.source)
	}
	data := event.Splice(body, event.AppendString([]byte(`,"orderId":`), id))
	raw = append(append(append(raw, `,"data":`...), data...), '}')
	return event.Parse(raw)
}

// checkOrder names every wrong field of an order.
func checkOrder(body []byte) error {
	var wrong []fault.Field
	bad := func(name, reason string) { wrong = append(wrong, fault.Field{Name: name, Reason: reason}) }
	amount := false
	err := event.Members(body, func(name string, value jsontext.Value) {
		switch name {
		case "amount":
			amount = true
			if n, err := strconv.ParseFloat(string(value), 64); err != nil || value.Kind() != '0' || n <= 0 || n > maxAmount {
				bad(name, "must be a number above 0 and at most 1000000000000")
			}
		case "currency":
			if s, ok := unquote(value); !ok || len(s) != 3 {
				bad(name, "must be a currency code of three letters such as EUR")
			}
		case "items":
			wrong = append(wrong, checkItems(value)...)
		case "orderId":
			bad(name, "is set by the server; leave it out, or give the header "+keyHeader)
		}
	})
	if err != nil {
		return fault.Errorf("read order", fault.Invalid, "The order is not valid JSON.")
	}
	if !amount {
		bad("amount", "is missing")
	}
	if len(wrong) > 0 {
		return fault.BadFields("read order", wrong...)
	}
	return nil
}

func checkItems(value jsontext.Value) []fault.Field {
	var items []json.RawMessage
	if err := json.Unmarshal(value, &items); err != nil || items == nil || len(items) > maxItems {
		return []fault.Field{{Name: "items", Reason: fmt.Sprintf("must be an array of at most %d objects", maxItems)}}
	}
	var wrong []fault.Field
	for i, item := range items {
		name := fmt.Sprintf("items[%d]", i)
		if item[0] != '{' {
			wrong = append(wrong, fault.Field{Name: name, Reason: "must be an object"})
			continue
		}
		_ = event.Members(item, func(field string, v jsontext.Value) { // checked as a part of the order
			n, err := strconv.ParseFloat(string(v), 64)
			switch {
			case field == "quantity" && (err != nil || n < 1 || n != float64(int64(n))):
				wrong = append(wrong, fault.Field{Name: name + ".quantity", Reason: "must be a whole number from 1"})
			case field == "price" && (err != nil || n < 0):
				wrong = append(wrong, fault.Field{Name: name + ".price", Reason: "must be a number from 0"})
			}
		})
	}
	return wrong
}

func unquote(value jsontext.Value) (string, bool) {
	if value.Kind() != '"' {
		return "", false
	}
	b, err := jsontext.AppendUnquote(nil, value)
	return string(b), err == nil
}
