package api

import "testing"

func TestProse(t *testing.T) {
	for text, want := range map[string]string{
		"plain":                  "plain",
		"give a `type` & <more>": "give a <code>type</code> &amp; &lt;more&gt;",
		"`<b>`":                  "<code>&lt;b&gt;</code>",
	} {
		if got := string(prose(text)); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}
