// SPDX-License-Identifier: GPL-3.0-or-later

package house

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// requirement is a line of a go.mod file: module, version, and the comment
// that marks what is only there for another module's sake.
var requirement = regexp.MustCompile(`(?m)^(?:require)?\s+(\S+\.\S+/\S+|\S+\.\S+)\s+(v\S+)(\s*// indirect)?\s*$`)

// direct returns the modules that a go.mod file requires for their own sake.
func direct(goMod string) map[string]string {
	modules := map[string]string{}
	for _, m := range requirement.FindAllStringSubmatch(goMod, -1) {
		if m[3] == "" {
			modules[m[1]] = m[2]
		}
	}
	return modules
}

// tools returns the modules that hold the programs of a go.mod's tool lines,
// with their versions.
func tools(t *testing.T, goMod string) map[string]string {
	t.Helper()
	versions := map[string]string{}
	for _, m := range requirement.FindAllStringSubmatch(goMod, -1) {
		versions[m[1]] = m[2]
	}
	modules := map[string]string{}
	_, block, _ := strings.Cut(goMod, "tool (\n")
	block, _, _ = strings.Cut(block, "\n)")
	for program := range strings.FieldsSeq(block) {
		longest := ""
		for module := range versions {
			if strings.HasPrefix(program+"/", module+"/") && len(module) > len(longest) {
				longest = module
			}
		}
		if longest == "" {
			t.Fatalf("tools/go.mod: no module provides %s", program)
		}
		modules[longest] = versions[longest]
	}
	return modules
}

// entry is a line of docs/dependencies.md: "- `module` version: reason."
var entry = regexp.MustCompile("(?m)^- `(\\S+)` (v\\S+): \\S")

func listed(t *testing.T, section string) map[string]string {
	t.Helper()
	modules := map[string]string{}
	for _, m := range entry.FindAllStringSubmatch(section, -1) {
		if _, ok := modules[m[1]]; ok {
			t.Errorf("docs/dependencies.md lists %s twice", m[1])
		}
		modules[m[1]] = m[2]
	}
	return modules
}

func TestDependenciesPageAgreesWithGoMod(t *testing.T) {
	program, tooling, found := strings.Cut(read(t, "docs/dependencies.md"), "\n## Tools")
	if !found {
		t.Fatal("docs/dependencies.md has no section Tools")
	}
	compare(t, "go.mod", direct(read(t, "go.mod")), listed(t, program))
	own := tools(t, read(t, "tools/go.mod"))
	maps.Copy(own, direct(read(t, "tools/go.mod"))) // of the programs that are this project's
	compare(t, "tools/go.mod", own, listed(t, tooling))
}

func compare(t *testing.T, file string, have, page map[string]string) {
	t.Helper()
	if len(have) == 0 {
		t.Errorf("%s requires nothing directly: does it need `go mod tidy`?", file)
	}
	for _, module := range slices.Sorted(maps.Keys(have)) {
		if page[module] != have[module] {
			t.Errorf("%s requires %s %s, docs/dependencies.md says %q", file, module, have[module], page[module])
		}
	}
	for _, module := range slices.Sorted(maps.Keys(page)) {
		if _, ok := have[module]; !ok {
			t.Errorf("docs/dependencies.md lists %s, which %s does not require", module, file)
		}
	}
}

func TestGoModIsReadRight(t *testing.T) {
	have := direct("module x\n\ngo 1.26\n\nrequire a.b/c v1.2.3\n\nrequire (\n\td.e/f v0.1.0\n\tg.h/i v1.0.0 // indirect\n\tj.k v2.0.0\n)\n")
	want := map[string]string{"a.b/c": "v1.2.3", "d.e/f": "v0.1.0", "j.k": "v2.0.0"}
	if !maps.Equal(have, want) {
		t.Errorf("have %v, want %v", have, want)
	}
}
