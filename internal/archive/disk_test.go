package archive

import (
	"os"
	"testing"
)

// What a server is asked must be answered with more than nothing.
func TestDiskSettingsOfAServer(t *testing.T) {
	url := os.Getenv("EVENTSPINE_TEST_ES")
	if url == "" {
		t.Skip("no Elasticsearch: EVENTSPINE_TEST_ES is not set") // TestElasticsearch fails where one is required
	}
	a, err := New(Options{URLs: []string{url}})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	all, err := a.diskSettings(t.Context(), "test")
	if err != nil || all["watermark.high"] == "" || all["watermark.flood_stage.max_headroom"] == "" || all["threshold_enabled"] == "" {
		t.Errorf("%v, %v", all, err)
	}
	if w, err := a.watermarks(t.Context(), "test"); err != nil || (len(w) == 0) != (all["threshold_enabled"] == "false") {
		t.Errorf("%v, %v", w, err)
	}
}

func TestWatermarksAsElasticsearchWritesThem(t *testing.T) {
	const gb = 1 << 30
	for _, c := range []struct {
		mark, headroom string
		total, want    float64
	}{
		{"90%", "150gb", 100 * gb, 10 * gb},
		{"90%", "150gb", 4000 * gb, 150 * gb},
		{"90%", "-1", 4000 * gb, 400 * gb},
		{"0.95", "", 100 * gb, 5 * gb},
		{"10gb", "", 100 * gb, 10 * gb},
		{"512mb", "150gb", 100 * gb, gb / 2},
		{"1.5gb", "", 100 * gb, 1.5 * gb},
		{"", "", 100 * gb, 0},
		{"nonsense", "more", 100 * gb, 0},
	} {
		got := watermarks{"high": c.mark, "high.max_headroom": c.headroom}.need("high", c.total)
		if got < c.want*0.999 || got > c.want*1.001 {
			t.Errorf("%q with %q of %.0f: %.0f has to be free, want %.0f", c.mark, c.headroom, c.total, got, c.want)
		}
	}
}
