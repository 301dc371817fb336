package main

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
)

// The bill of this very test program names what it was linked from.
func TestBillOfAProgram(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := write(&out, []string{"demo", "1.2.3", self}, "86400"); err != nil {
		t.Fatal(err)
	}
	var b bill
	if err := json.Unmarshal(out.Bytes(), &b); err != nil {
		t.Fatal(err)
	}
	if b.Format != "CycloneDX" || b.Metadata.Timestamp != "1970-01-02T00:00:00Z" || b.Metadata.Component.Version != "1.2.3" {
		t.Errorf("%s", &out)
	}
	refs := map[string]bool{"demo": true}
	for _, c := range append(b.Components, b.Metadata.Component.Components...) {
		if refs[c.Ref] {
			t.Errorf("%s is there twice", c.Ref)
		}
		refs[c.Ref] = true
	}
	for _, d := range b.Dependencies {
		for _, on := range append(d.DependsOn, d.Ref) {
			if !refs[on] {
				t.Errorf("nothing is called %s", on)
			}
		}
	}
	if !slices.ContainsFunc(b.Components, func(c component) bool { return c.Name == "std" && strings.HasPrefix(c.PURL, "pkg:golang/std@1.") }) {
		t.Errorf("Go's own library is missing\n%s", &out)
	}
}

func TestWhatCannotBeBilled(t *testing.T) {
	for _, args := range [][]string{nil, {"demo", "1"}, {"demo", "1", "/etc/passwd"}, {"demo", "1", "/nowhere"}} {
		if err := write(&bytes.Buffer{}, args, ""); err == nil {
			t.Errorf("%q gave no error", args)
		}
	}
	self, _ := os.Executable()
	if err := write(&bytes.Buffer{}, []string{"demo", "1", self}, "soon"); err == nil {
		t.Error("a date that is none gave no error")
	}
}
