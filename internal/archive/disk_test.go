package archive

import "testing"

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
