package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"math"

	"github.com/elastic/go-elasticsearch/v8/esapi"

	"eventspine/internal/fault"
)

// Limits of one request about numbers. Elasticsearch's own: 65,536 buckets, 10,000 hits.
const (
	// Block is how many numbers are counted together: block b holds those from b*Block to (b+1)*Block-1.
	Block = 256
	// MaxNumbers is the most numbers that Repeats looks at in one call.
	MaxNumbers = 50_000
	// MaxIDs is the most ids that Known looks for in one call.
	MaxIDs = 2000

	maxBlocks = 60_000 // in the answer of one request of Tally
)

// Range is the numbers First to Last, both included, of one partition.
type Range struct {
	Partition   int
	First, Last uint64
}

// Len is how many numbers r has.
func (r Range) Len() uint64 { return r.Last - r.First + 1 }

// blocks is how many blocks r touches.
func (r Range) blocks() int { return int(r.Last/Block - r.First/Block + 1) }

// BlockOf names a block of a partition.
type BlockOf struct {
	Partition int
	Block     uint64
}

// Tally counts the documents whose number lies in one of the ranges, block by block; a block
// without any is not in the answer. It makes one request for some 15 million numbers. Only what
// was refreshed counts. Errors are as those of Search.
func (a *Archive) Tally(ctx context.Context, ranges []Range) (map[BlockOf]int64, error) {
	out := map[BlockOf]int64{}
	for len(ranges) > 0 {
		n, blocks := 0, 0
		for n < len(ranges) && (n == 0 || blocks+ranges[n].blocks() <= maxBlocks) {
			blocks += ranges[n].blocks()
			n++
		}
		of, err := a.numbers(ctx, ranges[:n], object{"histogram": object{"field": "seq", "interval": Block, "min_doc_count": 1}})
		if err != nil {
			return nil, err
		}
		for key, docs := range of {
			out[BlockOf{key.Partition, key.First / Block}] += docs
		}
		ranges = ranges[n:]
	}
	return out, nil
}

// Repeats finds the numbers in the ranges that more than one document has: the answer has a range
// of one number for each, and how many documents. Invalid: the ranges have more than MaxNumbers
// numbers. Other errors are as those of Search.
func (a *Archive) Repeats(ctx context.Context, ranges []Range) (map[Range]int64, error) {
	sum := uint64(0)
	for _, r := range ranges {
		sum += r.Len()
	}
	if sum > MaxNumbers {
		return nil, fault.Errorf("look for repeats", fault.Invalid, "%d numbers; at most %d in one call", sum, MaxNumbers)
	}
	// Every index gives all its numbers: a number's two documents may be in two of them.
	return a.numbers(ctx, ranges, object{"terms": object{"field": "seq", "size": MaxNumbers, "min_doc_count": 2}})
}

// numbers groups the documents in the ranges by partition and then as grouping says. A key's
// First is the group's key.
func (a *Archive) numbers(ctx context.Context, ranges []Range, grouping object) (map[Range]int64, error) {
	const op = "count by number"
	if len(ranges) == 0 {
		return nil, nil
	}
	should := make([]object, len(ranges))
	for i, r := range ranges {
		should[i] = object{"bool": object{"filter": []object{
			{"term": object{"partition": r.Partition}},
			{"range": object{"seq": object{"gte": r.First, "lte": r.Last}}},
		}}}
	}
	answer, err := a.query(ctx, op, []string{a.pattern()}, object{
		"size": 0, "track_total_hits": false,
		"query": object{"bool": object{"should": should, "minimum_should_match": 1}},
		"aggs": object{"partition": object{
			"terms": object{"field": "partition", "size": 1024},
			"aggs":  object{"number": grouping},
		}},
	})
	if err != nil {
		return nil, err
	}
	type bucket struct {
		Key    float64 `json:"key"` // a histogram's keys are written as floats; below 2^53 none is rounded
		Docs   int64   `json:"doc_count"`
		Number struct {
			Buckets []struct {
				Key  float64 `json:"key"`
				Docs int64   `json:"doc_count"`
			} `json:"buckets"`
		} `json:"number"`
	}
	var got struct {
		Aggregations *struct {
			Partition struct {
				Buckets []bucket `json:"buckets"`
			} `json:"partition"`
		} `json:"aggregations"`
	}
	if err := json.Unmarshal(answer, &got); err != nil {
		return nil, fault.E(op, fault.Unavailable, err)
	}
	out := map[Range]int64{}
	if got.Aggregations == nil { // so it answers when there is no index at all
		return out, nil
	}
	for _, p := range got.Aggregations.Partition.Buckets {
		for _, n := range p.Number.Buckets {
			if n.Key < 0 || n.Key >= 1<<53 || n.Key != math.Trunc(n.Key) {
				return nil, fault.Errorf(op, fault.Corrupt, "a document has the number %v", n.Key)
			}
			out[Range{int(p.Key), uint64(n.Key), uint64(n.Key)}] += n.Docs
		}
	}
	return out, nil
}

// query sends one search to these indices and returns the whole answer; those that are not there
// are left out.
func (a *Archive) query(ctx context.Context, op string, indices []string, body object) ([]byte, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, fault.E(op, fault.Internal, err)
	}
	yes, no := true, false
	answer, err := patiently(ctx, func(ctx context.Context) ([]byte, error) {
		return a.call(ctx, op, esapi.SearchRequest{Index: indices, Body: bytes.NewReader(text), AllowPartialSearchResults: &no, IgnoreUnavailable: &yes})
	})
	if err != nil {
		return nil, ours(op, err)
	}
	return answer, nil
}

// Known says which of the ids, at most MaxIDs, have a document, and whether it is one among the
// dead letters only. Only what was refreshed counts. Errors are as those of Search.
func (a *Archive) Known(ctx context.Context, ids []string) (map[string]Whereabouts, error) {
	const op = "look for ids"
	if len(ids) > MaxIDs {
		return nil, fault.Errorf(op, fault.Invalid, "%d ids; at most %d in one call", len(ids), MaxIDs)
	}
	answer, err := a.query(ctx, op, []string{a.pattern(), a.dead()}, object{
		"size": maxHits, "track_total_hits": false,
		"_source": false, "stored_fields": "_none_", "docvalue_fields": []string{"id"}, // ten times as fast as reading _id
		"query": object{"ids": object{"values": ids}},
	})
	if err != nil {
		return nil, err
	}
	var got struct {
		Hits struct {
			Hits []struct {
				Index  string `json:"_index"`
				Fields struct {
					ID []string `json:"id"`
				} `json:"fields"`
			} `json:"hits"`
		} `json:"hits"`
	}
	if err := json.Unmarshal(answer, &got); err != nil {
		return nil, fault.E(op, fault.Unavailable, err)
	}
	out := make(map[string]Whereabouts, len(ids))
	for _, h := range got.Hits.Hits {
		where := Archived
		if h.Index == a.dead() {
			where = Buried
		}
		for _, id := range h.Fields.ID {
			out[id] = max(out[id], where)
		}
	}
	return out, nil
}

const maxHits = 10_000 // an id may have a document in each of five days and none is cut off

// Whereabouts is where an event's document is.
type Whereabouts int

// An event's document is nowhere, among the dead letters, or in the archive.
const (
	Nowhere Whereabouts = iota
	Buried
	Archived
)
