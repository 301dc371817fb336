package search

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// What archive asks about numbers and ids: how many documents each block of numbers has, which
// numbers have more than one document, and which ids have one. Each in one form only.

type numbersBody struct {
	Size       *int     `json:"size"`
	TrackTotal *bool    `json:"track_total_hits"`
	Source     *bool    `json:"_source"`
	Stored     string   `json:"stored_fields"`
	Fields     []string `json:"docvalue_fields"`
	Query      struct {
		IDs *struct {
			Values []string `json:"values"`
		} `json:"ids"`
		Bool *struct {
			Should []struct {
				Bool struct {
					Filter []numbersFilter `json:"filter"`
				} `json:"bool"`
			} `json:"should"`
			Minimum int `json:"minimum_should_match"`
		} `json:"bool"`
	} `json:"query"`
	Aggs *struct {
		Partition struct {
			Terms jsontext.Value `json:"terms"`
			Aggs  struct {
				Number struct {
					Histogram *struct {
						Field    string `json:"field"`
						Interval int64  `json:"interval"`
						Min      int64  `json:"min_doc_count"`
					} `json:"histogram"`
					Terms *struct {
						Field string `json:"field"`
						Size  int64  `json:"size"`
						Min   int64  `json:"min_doc_count"`
					} `json:"terms"`
				} `json:"number"`
			} `json:"aggs"`
		} `json:"partition"`
	} `json:"aggs"`
}

type numbersFilter struct {
	Term *struct {
		Partition *int64 `json:"partition"`
	} `json:"term"`
	Range *struct {
		Seq struct {
			From int64 `json:"gte"`
			To   int64 `json:"lte"`
		} `json:"seq"`
	} `json:"range"`
}

// asksNumbers reports whether a search is one of those here: they count no hits.
func asksNumbers(body []byte) bool {
	var b struct {
		TrackTotal *bool `json:"track_total_hits"`
	}
	return json.Unmarshal(body, &b) == nil && b.TrackTotal != nil && !*b.TrackTotal
}

func (h *handler) numbers(r *http.Request, body []byte) (answer, error) {
	var b numbersBody
	if err := strict(body, &b); err != nil {
		return answer{}, err
	}
	var in []index
	for part := range strings.SplitSeq(r.PathValue("name"), ",") { // those that are not there are left out
		found, err := h.store.indices(r.Context(), part)
		var missing *refusal
		if err != nil && !errors.As(err, &missing) {
			return answer{}, err
		}
		in = append(in, found...)
	}
	switch {
	case b.Query.IDs != nil && b.Aggs == nil && b.Source != nil && !*b.Source && b.Stored == "_none_" && len(b.Fields) == 1 && b.Fields[0] == "id":
		return h.known(r.Context(), in, b.Query.IDs.Values)
	case b.Query.Bool != nil && b.Query.Bool.Minimum == 1 && b.Aggs != nil:
		return h.grouped(r.Context(), in, &b)
	}
	return answer{}, refuse(400, "parsing_exception", "a search that counts no hits asks for ids or for numbers")
}

// of is the condition that a document is in one of the indices.
func of(in []index) (string, []any) { return (&query{}).where(in) }

func (h *handler) known(ctx context.Context, in []index, ids []string) (a answer, err error) {
	where, args := of(in)
	values, err := json.Marshal(ids)
	if err != nil {
		return answer{}, err
	}
	rows, err := h.store.read.QueryContext(ctx, "SELECT indices.name, id FROM docs JOIN indices USING (k) WHERE "+where+
		" AND docid IN (SELECT value FROM json_each(?))", append(args, string(values))...)
	if err != nil {
		return answer{}, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	hits := []object{}
	for rows.Next() {
		var name, id string
		if err := rows.Scan(&name, &id); err != nil {
			return answer{}, err
		}
		hits = append(hits, object{"_index": name, "fields": object{"id": []string{id}}})
	}
	return reply(200, object{"_shards": shards(in), "hits": object{"hits": hits}}), rows.Err()
}

func (h *handler) grouped(ctx context.Context, in []index, b *numbersBody) (a answer, err error) {
	n := b.Aggs.Partition.Aggs.Number
	group, least := "", int64(0)
	switch {
	case n.Histogram != nil && n.Histogram.Field == "seq" && n.Histogram.Interval > 0:
		group, least = fmt.Sprintf("seq / %d * %[1]d", n.Histogram.Interval), n.Histogram.Min
	case n.Terms != nil && n.Terms.Field == "seq":
		group, least = "seq", n.Terms.Min
	default:
		return answer{}, refuse(400, "parsing_exception", "the number is seq, by histogram or terms")
	}
	where, args := of(in)
	var ranges []string
	for _, s := range b.Query.Bool.Should {
		f := s.Bool.Filter
		if len(f) != 2 || f[0].Term == nil || f[0].Term.Partition == nil || f[1].Range == nil {
			return answer{}, refuse(400, "parsing_exception", "a condition is a partition and a range of seq")
		}
		ranges = append(ranges, "seq BETWEEN ? AND ? AND part = ?")
		args = append(args, f[1].Range.Seq.From, f[1].Range.Seq.To, *f[0].Term.Partition)
	}
	text := fmt.Sprintf(`SELECT part, %s AS number, count(*) FROM (SELECT k, seq, json_extract(source, '$.partition') AS part FROM docs)
		WHERE %s AND (%s) GROUP BY part, number HAVING count(*) >= %d ORDER BY part, number`, group, where, strings.Join(ranges, " OR "), least)
	rows, err := h.store.read.QueryContext(ctx, text, args...)
	if err != nil {
		return answer{}, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var out bytes.Buffer
	out.WriteString(`{"hits":{"hits":[]},"aggregations":{"partition":{"buckets":[`)
	last := int64(-1)
	for rows.Next() {
		var part, number, docs int64
		if err := rows.Scan(&part, &number, &docs); err != nil {
			return answer{}, err
		}
		switch {
		case part == last:
			out.WriteString(",")
		case last >= 0:
			out.WriteString("]}},")
			fallthrough
		default:
			fmt.Fprintf(&out, `{"key":%d,"number":{"buckets":[`, part)
		}
		fmt.Fprintf(&out, `{"key":%d.0,"doc_count":%d}`, number, docs)
		last = part
	}
	if last >= 0 {
		out.WriteString("]}}")
	}
	out.WriteString("]}}}")
	return answer{200, out.Bytes()}, rows.Err()
}
