// Command sbom writes the bill of materials of built Go programs: which modules, in which
// versions and with which sums, went into them, as CycloneDX 1.5 in JSON on standard output.
//
//	sbom NAME VERSION PROGRAM…
package main

import (
	"cmp"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

func main() {
	if err := write(os.Stdout, os.Args[1:], os.Getenv("SOURCE_DATE_EPOCH")); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

type bill struct {
	Format       string       `json:"bomFormat"`
	Spec         string       `json:"specVersion"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Timestamp string    `json:"timestamp,omitempty"`
	Component component `json:"component"`
}

type component struct {
	Ref        string      `json:"bom-ref"`
	Type       string      `json:"type"`
	Name       string      `json:"name"`
	Version    string      `json:"version"`
	PURL       string      `json:"purl,omitempty"`
	Hashes     []hash      `json:"hashes,omitempty"`
	Components []component `json:"components,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn,omitempty"`
}

// write makes the bill of the programs whose paths follow name and version. epoch, seconds since
// 1970, is its date; empty: it has none.
func write(w io.Writer, args []string, epoch string) error {
	if len(args) < 3 {
		return errors.New("usage: sbom NAME VERSION PROGRAM…")
	}
	name, version := args[0], args[1]
	b := bill{Format: "CycloneDX", Spec: "1.5", Version: 1}
	b.Metadata.Component = component{Ref: name, Type: "application", Name: name, Version: version}
	if epoch != "" {
		var seconds int64
		if _, err := fmt.Sscan(epoch, &seconds); err != nil {
			return fmt.Errorf("SOURCE_DATE_EPOCH %q: %w", epoch, err)
		}
		b.Metadata.Timestamp = time.Unix(seconds, 0).UTC().Format(time.RFC3339)
	}
	modules := map[string]component{}
	top := dependency{Ref: name}
	for _, path := range args[2:] {
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			return err
		}
		program := component{Ref: name + "/" + filepath.Base(path), Type: "application", Name: filepath.Base(path), Version: version}
		d := dependency{Ref: program.Ref}
		for _, m := range append(info.Deps, &debug.Module{Path: "std", Version: strings.TrimPrefix(info.GoVersion, "go")}) {
			c := module(m)
			modules[c.Ref] = c
			d.DependsOn = append(d.DependsOn, c.Ref)
		}
		slices.Sort(d.DependsOn)
		b.Metadata.Component.Components = append(b.Metadata.Component.Components, program)
		b.Dependencies = append(b.Dependencies, d)
		top.DependsOn = append(top.DependsOn, program.Ref)
	}
	b.Dependencies = append(b.Dependencies, top)
	for _, c := range modules {
		b.Components = append(b.Components, c)
	}
	slices.SortFunc(b.Components, func(x, y component) int { return cmp.Compare(x.Ref, y.Ref) })
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(b)
}

// module is what was linked: a replacement counts instead of what it replaces.
func module(m *debug.Module) component {
	if m.Replace != nil {
		m = m.Replace
	}
	purl := "pkg:golang/" + m.Path + "@" + m.Version
	c := component{Ref: purl, Type: "library", Name: m.Path, Version: m.Version, PURL: purl}
	if sum, ok := strings.CutPrefix(m.Sum, "h1:"); ok {
		if raw, err := base64.StdEncoding.DecodeString(sum); err == nil {
			c.Hashes = []hash{{"SHA-256", hex.EncodeToString(raw)}}
		}
	}
	return c
}
