package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"time"

	"github.com/elastic/go-elasticsearch/v8/esapi"

	"eventspine/internal/event"
	"eventspine/internal/fault"
)

const deadSuffix = "-dead"

// Letter is a dead letter: an event that Elasticsearch refuses for good, and why.
type Letter struct {
	ID        string `json:"id"`
	Type      string `json:"type"`
	UserID    string `json:"userId,omitempty"`
	Timestamp int64  `json:"timestamp"` // the event's own, in milliseconds
	Partition int    `json:"partition"`
	Seq       uint64 `json:"seq"`
	Epoch     uint64 `json:"epoch"`
	RefusedAt int64  `json:"refusedAt"` // milliseconds since the Unix epoch
	Status    int    `json:"status"`    // HTTP status that Elasticsearch gave the event; 400 when it was never sent
	Reason    string `json:"reason"`
	Raw       string `json:"raw"` // the event as it was stored
}

// LetterOf is the dead letter of an event that was refused.
func LetterOf(e *event.Event, r Refusal, now time.Time) Letter {
	return Letter{ID: e.ID, Type: e.Type, UserID: e.UserID, Timestamp: e.Timestamp, Partition: e.Partition, Seq: e.Seq, Epoch: e.Epoch,
		RefusedAt: now.UnixMilli(), Status: r.Status, Reason: r.Reason, Raw: string(e.Raw)}
}

// dead is the index of the dead letters. The pattern of the daily indices does not fit it.
func (a *Archive) dead() string { return a.o.Index + deadSuffix }

// Bury puts letters into the index of dead letters, one document an event, and accounts for each as
// Index does. One that is there already stays as it is. Errors are those of Index.
func (a *Archive) Bury(ctx context.Context, letters []Letter) (Result, error) {
	b := builder{}
	s := sending{archive: a, id: func(i int) string { return letters[i].ID }, builder: &b}
	for i := range letters {
		doc, err := json.Marshal(&letters[i])
		if err != nil {
			return Result{}, fault.E("bury event", fault.Internal, err)
		}
		b.buf = event.AppendString(append(b.buf, `{"create":{"_index":`...), a.dead())
		b.buf = event.AppendString(append(b.buf, `,"_id":`...), docID(letters[i].ID, letters[i].Raw))
		b.buf = append(append(append(b.buf, "}}\n"...), doc...), '\n')
		b.ends, b.place = append(b.ends, len(b.buf)), append(b.place, i)
	}
	return s.all(ctx)
}

// docID is the event's id, or made of the event where it has none.
func docID(id, raw string) string {
	if id != "" {
		return id
	}
	sum := sha256.Sum256([]byte(raw))
	return hex.EncodeToString(sum[:])
}

// LetterPage is a part of the dead letters.
type LetterPage struct {
	Total   int64    // how many there are in all
	Letters []Letter // newest event first
	Next    string   // the `after` of the next page; empty: this is the last
}

// Letters returns a page of at most size dead letters (1 to MaxSize). Errors are those of Search.
func (a *Archive) Letters(ctx context.Context, size int, after string) (LetterPage, error) {
	found, err := a.search(ctx, a.dead()+"*", Query{AnyUser: true, Size: size, After: after})
	if err != nil {
		return LetterPage{}, err
	}
	page := LetterPage{Total: found.Total, Next: found.Next, Letters: make([]Letter, len(found.Events))}
	for i, doc := range found.Events {
		if err := json.Unmarshal(doc, &page.Letters[i]); err != nil {
			return LetterPage{}, fault.E("read dead letters", fault.Corrupt, err)
		}
	}
	return page, nil
}

// Letter returns the dead letter of the event with this id. NotFound: there is none.
func (a *Archive) Letter(ctx context.Context, id string) (Letter, error) {
	const op = "read dead letter"
	body, err := a.call(ctx, op, esapi.GetRequest{Index: a.dead(), DocumentID: url.PathEscape(id)})
	if err != nil {
		return Letter{}, err
	}
	var got struct {
		Source Letter `json:"_source"`
	}
	if err := json.Unmarshal(body, &got); err != nil {
		return Letter{}, fault.E(op, fault.Corrupt, err)
	}
	return got.Source, nil
}

// Unbury removes the dead letter of the event with this id, and is done when a search no longer
// finds it. NotFound: there is none.
func (a *Archive) Unbury(ctx context.Context, id string) error {
	_, err := a.call(ctx, "remove dead letter", esapi.DeleteRequest{Index: a.dead(), DocumentID: url.PathEscape(id), Refresh: "true"})
	return err
}

// PurgeLetters removes all dead letters.
func (a *Archive) PurgeLetters(ctx context.Context) error {
	err := a.DeleteIndex(ctx, a.dead())
	if fault.KindOf(err) == fault.NotFound {
		return nil
	}
	return err
}
