package archive

import (
	"encoding/json"
	"fmt"
)

const (
	dataDepth   = 20   // objects nested in data that the mapping takes
	ignoreAbove = 1024 // characters of one value in data that are indexed as a keyword
)

type object = map[string]any

// template is the index template as JSON. The mapping is closed: no document adds a field to
// it. data is one flattened field, whatever is in it; user and prev are kept without looking.
func template(o Options) string {
	keyword := object{"type": "keyword", "ignore_above": 512}
	long := object{"type": "long", "ignore_malformed": true}
	kept := object{"type": "object", "enabled": false}
	fields := object{
		"id":          keyword,
		"type":        keyword,
		"userId":      keyword,
		"source":      keyword,
		"timestamp":   object{"type": "date", "format": "epoch_millis", "ignore_malformed": true},
		"partition":   long,
		"seq":         long,
		"epoch":       long,
		"latencyMs":   object{"type": "double", "ignore_malformed": true},
		"processedAt": object{"type": "date", "format": "epoch_millis||strict_date_optional_time", "ignore_malformed": true},
		"user":        kept,
		"prev":        kept,
		"data":        object{"type": "flattened", "ignore_above": ignoreAbove, "depth_limit": dataDepth},
		helper: object{"dynamic": false, "properties": object{
			helperText: object{"type": "text", "analyzer": "standard", "norms": false},
			helperRaw:  kept,
		}},
	}
	body, err := json.Marshal(object{
		"index_patterns": []string{o.Index + "-*.*.*"},
		"priority":       200,
		"version":        1,
		"_meta":          object{"description": "events kept by eventspine"},
		"template": object{
			"aliases": object{o.Index: object{}},
			"settings": object{
				"number_of_shards":   1,
				"number_of_replicas": o.Replicas,
				"codec":              "best_compression",
				"refresh_interval":   fmt.Sprintf("%dms", o.Refresh.Milliseconds()),
			},
			"mappings": object{"dynamic": false, "properties": fields},
		},
	})
	if err != nil {
		panic(err) // strings and numbers only
	}
	return string(body)
}
