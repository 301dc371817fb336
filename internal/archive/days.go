package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/elastic/go-elasticsearch/v8/esapi"

	"eventspine/internal/fault"
)

// Day is the index of one day's events.
type Day struct {
	Date    time.Time // its midnight, in UTC
	Name    string    // by which events are written: events-2026.11.21
	Index   string    // the index itself; another name than Name once it was rebuilt
	Current bool      // it has the mapping that new indices get
	Closed  bool      // nothing may be written to it: index.blocks.write
	Shards  int
	Created time.Time // when its index was made; of one that was rebuilt, the first one. Zero where it is not known
}

// Young is until when all that the day holds may be new: the end of the day, or, where events with
// an old timestamp made the index later than that, when it was made. Its age counts from there.
func (d *Day) Young() time.Time {
	if end := d.Date.AddDate(0, 0, 1); end.After(d.Created) {
		return end
	}
	return d.Created
}

// versionOf is a short name of a mapping, kept in it, by which an index is known to have it.
func versionOf(mappings object) string {
	b, err := json.Marshal(mappings)
	if err != nil {
		panic(err) // strings and numbers only
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// blueprint is what a new day's index is made of.
type blueprint struct {
	Aliases  map[string]json.RawMessage `json:"aliases"`
	Settings map[string]any             `json:"settings"`
	Mappings json.RawMessage            `json:"mappings"`
}

func (a *Archive) blueprint() (b blueprint, version string, err error) {
	var t struct {
		Template blueprint `json:"template"`
	}
	var m struct {
		Meta struct {
			Version string `json:"version"`
		} `json:"_meta"`
	}
	if err = json.Unmarshal([]byte(template(a.o)), &t); err == nil {
		err = json.Unmarshal(t.Template.Mappings, &m)
	}
	return t.Template, m.Meta.Version, fault.E("read template", fault.Internal, err)
}

// layout is the answer about one index.
type layout struct {
	Aliases  map[string]json.RawMessage `json:"aliases"`
	Mappings struct {
		Meta struct {
			Version string `json:"version"`
			Created int64  `json:"created"` // of an index that was rebuilt; ms since the Unix epoch
		} `json:"_meta"`
	} `json:"mappings"`
	Settings struct {
		Index struct {
			Created string `json:"creation_date"`
			Shards  string `json:"number_of_shards"`
			Blocks  struct {
				Write string `json:"write"`
			} `json:"blocks"`
		} `json:"index"`
	} `json:"settings"`
}

// created is when the index was made, zero where that is not told.
func (l *layout) created() time.Time {
	ms := l.Mappings.Meta.Created
	if ms == 0 {
		ms, _ = strconv.ParseInt(l.Settings.Index.Created, 10, 64) // 0 where it is not told
	}
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// Days lists the daily indices, oldest first. Errors are as those of Prepare.
func (a *Archive) Days(ctx context.Context) ([]Day, error) {
	const op = "list indices"
	answer, err := a.call(ctx, op, esapi.IndicesGetRequest{Index: []string{a.pattern()}})
	if err != nil {
		return nil, err
	}
	var found map[string]layout
	if err := json.Unmarshal(answer, &found); err != nil {
		return nil, fault.E(op, fault.Unavailable, err)
	}
	_, version, err := a.blueprint()
	if err != nil {
		return nil, err
	}
	var days []Day
	for index, l := range found {
		names := []string{index}
		for alias := range l.Aliases {
			names = append(names, alias)
		}
		for _, name := range names {
			if date, ok := a.dateOf(name); ok {
				shards, _ := strconv.Atoi(l.Settings.Index.Shards) // 0 where it is not told
				days = append(days, Day{Date: date, Name: name, Index: index, Current: l.Mappings.Meta.Version == version,
					Closed: l.Settings.Index.Blocks.Write == "true", Shards: max(shards, 1), Created: l.created()})
			}
		}
	}
	slices.SortFunc(days, func(x, y Day) int { return x.Date.Compare(y.Date) })
	return days, nil
}

// dateOf is the day of a name that IndexOf gives.
func (a *Archive) dateOf(name string) (time.Time, bool) {
	day, ok := strings.CutPrefix(name, a.o.Index+"-")
	if !ok {
		return time.Time{}, false
	}
	t, err := time.Parse("2006.01.02", day)
	return t, err == nil && a.IndexOf(t) == name
}

// Retain deletes the daily indices that were no longer Young at the time before, oldest first, and
// returns the names of the days that are gone, also with an error. An index that somebody else
// deleted meanwhile is no error. held, when not nil, is asked before each: an error from it stops
// the call.
func (a *Archive) Retain(ctx context.Context, before time.Time, held func(context.Context, Day) error) (gone []string, err error) {
	days, err := a.Days(ctx)
	if err != nil {
		return nil, err
	}
	for _, d := range days {
		if d.Young().After(before) {
			continue
		}
		if held != nil {
			if err := held(ctx, d); err != nil {
				return gone, err
			}
		}
		if err := a.DeleteIndex(ctx, d.Index); err != nil && fault.KindOf(err) != fault.NotFound {
			return gone, err
		}
		gone = append(gone, d.Name)
	}
	return gone, nil
}

// Embedded reports whether the server is the embedded index of `eventspine dev`, which cannot do
// all that Elasticsearch can. Errors are those of Ping.
func (a *Archive) Embedded(ctx context.Context) (bool, error) {
	const op = "ask who elasticsearch is"
	answer, err := a.call(ctx, op, esapi.InfoRequest{})
	if err != nil {
		return false, err
	}
	var got struct {
		Version struct {
			BuildType string `json:"build_type"`
		} `json:"version"`
	}
	err = json.Unmarshal(answer, &got)
	return got.Version.BuildType == "embedded", fault.E(op, fault.Unavailable, err)
}
