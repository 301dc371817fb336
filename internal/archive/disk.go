package archive

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/elastic/go-elasticsearch/v8/esapi"

	"eventspine/internal/fault"
)

// Disk is how full Elasticsearch's disks are, and what that did to our indices.
type Disk struct {
	Used    float64  // share of the fullest data node, 0 to 1; 0 where it is not told
	High    bool     // a data node is past its high watermark
	Flood   bool     // a data node is past its flood-stage watermark: its indices are made read-only
	Blocked []string // our indices that are read-only for that reason
}

const blockSetting = "index.blocks.read_only_allow_delete"

// Disk asks how full the data nodes are, by the watermarks that Elasticsearch has itself. Errors are
// of kind Unavailable or Overloaded.
func (a *Archive) Disk(ctx context.Context) (Disk, error) {
	const op = "look at the disks of elasticsearch"
	var d Disk
	marks, err := a.watermarks(ctx, op)
	if err != nil {
		return d, err
	}
	var stats struct {
		Nodes map[string]struct {
			Roles []string `json:"roles"`
			FS    struct {
				Total struct {
					Total     float64 `json:"total_in_bytes"`
					Available float64 `json:"available_in_bytes"`
				} `json:"total"`
			} `json:"fs"`
		} `json:"nodes"`
	}
	err = a.read(ctx, op, esapi.NodesStatsRequest{Metric: []string{"fs"}, FilterPath: []string{"nodes.*.roles", "nodes.*.fs.total"}}, &stats)
	if err != nil {
		return d, err
	}
	for _, n := range stats.Nodes {
		total, free := n.FS.Total.Total, n.FS.Total.Available
		if total <= 0 || !slices.ContainsFunc(n.Roles, func(r string) bool { return strings.HasPrefix(r, "data") }) {
			continue
		}
		d.Used = max(d.Used, 1-free/total)
		d.High = d.High || free < marks.need("high", total)
		d.Flood = d.Flood || free < marks.need("flood_stage", total)
	}
	d.Blocked, err = a.blocked(ctx, op)
	return d, err
}

// Unblock lifts the read-only block that a full disk put on indices. Where there is no room,
// Elasticsearch puts it there again within half a minute.
func (a *Archive) Unblock(ctx context.Context, indices []string) error {
	_, err := a.call(ctx, "lift the block of full disks", esapi.IndicesPutSettingsRequest{Index: indices, Body: strings.NewReader(`{"` + blockSetting + `":null}`)})
	return err
}

func (a *Archive) read(ctx context.Context, op string, req esapi.Request, into any) error {
	body, err := a.call(ctx, op, req)
	if err == nil {
		err = fault.E(op, fault.Unavailable, json.Unmarshal(body, into))
	}
	return err
}

func (a *Archive) blocked(ctx context.Context, op string) ([]string, error) {
	var found map[string]struct {
		Settings map[string]string `json:"settings"`
	}
	flat := true
	err := a.read(ctx, op, esapi.IndicesGetSettingsRequest{Index: []string{a.pattern(), a.dead() + "*"}, Name: []string{blockSetting}, FlatSettings: &flat}, &found)
	var out []string
	for name, x := range found {
		if x.Settings[blockSetting] == "true" {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out, err
}

// watermarks are the settings of Elasticsearch below cluster.routing.allocation.disk.watermark; none
// where it does not heed them.
type watermarks map[string]string

func (a *Archive) watermarks(ctx context.Context, op string) (watermarks, error) {
	all, err := a.diskSettings(ctx, op)
	w := watermarks{}
	if all["threshold_enabled"] == "false" {
		return w, err
	}
	for name, value := range all {
		if rest, ok := strings.CutPrefix(name, "watermark."); ok {
			w[rest] = value
		}
	}
	return w, err
}

// diskSettings are what is in force below cluster.routing.allocation.disk.
func (a *Archive) diskSettings(ctx context.Context, op string) (map[string]string, error) {
	var found struct{ Defaults, Persistent, Transient map[string]any }
	yes := true
	// A dot in a filter is a step down, and the name of a flat setting is one step: no dot may be in its pattern.
	err := a.read(ctx, op, esapi.ClusterGetSettingsRequest{FlatSettings: &yes, IncludeDefaults: &yes, FilterPath: []string{"*.cluster*disk*"}}, &found)
	all := map[string]string{}
	for _, settings := range []map[string]any{found.Defaults, found.Persistent, found.Transient} {
		for name, value := range settings {
			if text, ok := value.(string); ok {
				all[strings.TrimPrefix(name, "cluster.routing.allocation.disk.")] = text
			}
		}
	}
	return all, err
}

// need is how many bytes have to be free on a disk of total bytes for it not to be past a mark:
// high or flood_stage. A mark is a share in use, as 90% or 0.9, with a most that has to be free
// beside it (max_headroom), or a size that has to be free. What cannot be read asks for nothing.
func (w watermarks) need(mark string, total float64) float64 {
	text := w[mark]
	share, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
	if err != nil {
		return size(text)
	}
	if strings.HasSuffix(text, "%") {
		share /= 100
	}
	free := total * (1 - share)
	if most := size(w[mark+".max_headroom"]); most > 0 {
		free = min(free, most)
	}
	return free
}

// size reads a size as Elasticsearch writes it: 100gb is a number of 1024-byte units there.
func size(text string) float64 {
	text = strings.ToUpper(text)
	if unit := strings.TrimLeft(text, "0123456789."); len(unit) == 2 {
		text = strings.TrimSuffix(text, unit) + unit[:1] + "iB"
	}
	n, err := humanize.ParseBytes(text)
	if err != nil {
		return 0
	}
	return float64(n)
}
