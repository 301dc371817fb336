package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"eventspine/internal/event"
	"eventspine/internal/journal"
	"eventspine/internal/rdb"
)

// search sends one request to Elasticsearch, by itself and not through the project's archive.
func search(ctx context.Context, method, url string, body, into any) error {
	var text []byte
	var err error
	if body != nil {
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	answer, err := io.ReadAll(r.Body)
	if err = errors.Join(err, r.Body.Close()); err != nil {
		return err
	}
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s %.300s", url, r.Status, answer)
	}
	return json.Unmarshal(answer, into)
}

func byType(typ string) map[string]any { return map[string]any{"term": map[string]any{"type": typ}} }

// indexCount is how many documents the type has.
func indexCount(ctx context.Context, es, typ string) (int, error) {
	var got struct{ Count int }
	err := search(ctx, http.MethodPost, es+"/events/_refresh", nil, &struct{}{})
	if err == nil {
		err = search(ctx, http.MethodPost, es+"/events/_count", map[string]any{"query": byType(typ)}, &got)
	}
	return got.Count, err
}

// readIndex reads all documents of the type.
func readIndex(ctx context.Context, es, typ string) ([]Record, error) {
	const page = 5000
	var out []Record
	var after []any
	for {
		q := map[string]any{"size": page, "query": byType(typ), "_source": []string{"id", "userId", "seq", "epoch", "partition", "data.n"},
			"sort": []any{map[string]any{"partition": "asc"}, map[string]any{"seq": "asc"}, map[string]any{"id": "asc"}}}
		if after != nil {
			q["search_after"] = after
		}
		var got struct {
			Hits struct {
				Hits []struct {
					Source payload `json:"_source"`
					Sort   []any   `json:"sort"`
				} `json:"hits"`
			} `json:"hits"`
		}
		if err := search(ctx, http.MethodPost, es+"/events/_search", q, &got); err != nil {
			return nil, err
		}
		for _, hit := range got.Hits.Hits {
			out = append(out, hit.Source.record(Indexed))
			after = hit.Sort
		}
		if len(got.Hits.Hits) < page {
			return out, nil
		}
	}
}

// readJournal reads what the journal holds of the type.
func readJournal(ctx context.Context, redis, typ string) ([]Record, error) {
	c, err := rdb.Open(redis)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	j := journal.New(c, journal.DefaultOptions())
	var out []Record
	for p := range journal.DefaultOptions().Partitions {
		for after := uint64(0); ; {
			events, err := j.Read(ctx, p, after, 0)
			if err != nil {
				return nil, err
			}
			if len(events) == 0 {
				break
			}
			for _, raw := range events {
				e, err := event.ParseStored(raw)
				if err != nil {
					return nil, err
				}
				after = e.Seq
				if e.Type != typ {
					continue
				}
				var seen payload
				if err := json.Unmarshal(raw, &seen); err != nil {
					return nil, err
				}
				out = append(out, seen.record(Stored))
			}
		}
	}
	return out, nil
}
