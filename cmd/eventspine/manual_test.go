package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"eventspine/internal/fault"
)

// The manual has a page for each command, with the version on it.
func TestManual(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := call(t, "man", dir); err != nil {
		t.Fatal(err)
	}
	for _, page := range []string{"eventspine.1", "eventspine-token.1", "eventspine-rules-set.1"} {
		text, err := os.ReadFile(filepath.Join(dir, page))
		if err != nil || !strings.Contains(string(text), `"eventspine dev"`) {
			t.Errorf("%s: %v\n%s", page, err, text)
		}
	}
}

// The example of an environment file sets nothing, and names everything.
func TestConfigAsEnvironment(t *testing.T) {
	for _, s := range allSettings() {
		out, _, err := call(t, "config", "--env", s.name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out) {
			if line != "\n" && !strings.HasPrefix(line, "#") {
				t.Errorf("%s: %q is in force", s.name, line)
			}
		}
		for _, x := range s.settings {
			if !strings.Contains(out, "\n#"+x.Name+"=") {
				t.Errorf("%s: %s is missing", s.name, x.Name)
			}
		}
	}
	if _, _, err := call(t, "config", "--env", "nobody"); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a service that is none: %v", err)
	}
}
