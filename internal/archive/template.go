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
	return indexTemplate(o, o.Index+"-*.*.*", "events kept by eventspine", object{o.Index: object{}}, fields)
}

// deadTemplate is the index template of the dead letters as JSON. The event is kept as a string
// that nobody looks into.
func deadTemplate(o Options) string {
	keyword := object{"type": "keyword", "ignore_above": 512}
	long := object{"type": "long", "ignore_malformed": true}
	date := object{"type": "date", "format": "epoch_millis", "ignore_malformed": true}
	fields := object{
		"id": keyword, "type": keyword, "userId": keyword, "timestamp": date, "partition": long, "seq": long, "epoch": long,
		"refusedAt": date,
		"status":    long,
		"reason":    object{"type": "text", "norms": false},
		"raw":       object{"type": "object", "enabled": false},
	}
	return indexTemplate(o, o.Index+deadSuffix, "events that Elasticsearch refused", object{}, fields)
}

func indexTemplate(o Options, pattern, about string, aliases, fields object) string {
	mappings := object{"dynamic": false, "properties": fields}
	mappings["_meta"] = object{"version": versionOf(mappings)}
	body, err := json.Marshal(object{
		"index_patterns": []string{pattern},
		"priority":       200,
		"version":        1,
		"_meta":          object{"description": about},
		"template": object{
			"aliases": aliases,
			"settings": object{
				"number_of_shards":   1,
				"number_of_replicas": o.Replicas,
				"codec":              "best_compression",
				"refresh_interval":   fmt.Sprintf("%dms", o.Refresh.Milliseconds()),
			},
			"mappings": mappings,
		},
	})
	if err != nil {
		panic(err) // strings and numbers only
	}
	return string(body)
}
