// SPDX-License-Identifier: GPL-3.0-or-later

// Command lintarrows proves that the linter holds the arrows between the
// project's layers: a rule that silently stopped to fire would look like a
// clean tree.
//
//	lintarrows GOLANGCI-LINT CONFIG
//
// It makes a small module with the project's name and packages, and in it, for
// each package and each import, a subpackage that has this import. It runs
// the linter with CONFIG and compares what it reports with the table of floors
// below. It exits 1 when an import that is not allowed went unreported, or an
// allowed one was reported.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const module = "github.com/flexnbd/flexnbd"

// floors are the packages of core, from the bottom up. A package imports only
// from the floors below its own.
var floors = [][]string{
	{"core/acl", "core/bundle", "core/control", "core/dirty", "core/failpoint", "core/logging", "core/nbd", "core/owner", "core/privilege", "core/sandbox"},
	{"core/launch"},
	{"core/client", "core/export", "core/host"},
	{"core/session"},
	{"core/check", "core/mirror", "core/server"},
}

var others = []string{
	"cmd/flexnbd", "plugins/backend-file", "plugins/transport-tcp",
	"sdk/fdstore", "sdk/store", "sdk/transport", "sdk/wire", "test/house", "test/plugin-memory",
}

// allowed is the table of docs/design.md in code.
func allowed(from, to string) bool {
	toTop, _, _ := strings.Cut(to, "/")
	fromTop, _, _ := strings.Cut(from, "/")
	switch {
	case from == "sdk/store" || from == "sdk/transport":
		return false
	case fromTop == "sdk":
		return toTop == "sdk"
	case strings.HasPrefix(from, "test/plugin-"):
		return toTop == "sdk"
	case fromTop == "plugins":
		return toTop == "sdk" || toTop == "plugins"
	case from == "core/owner" && to == "core/failpoint":
		return true // each step of a record's writing is a point
	case fromTop == "core":
		return toTop == "sdk" || toTop == "core" && floor(to) < floor(from)
	}
	return true // cmd and test
}

func floor(pkg string) int {
	return slices.IndexFunc(floors, func(f []string) bool { return slices.Contains(f, pkg) })
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: lintarrows GOLANGCI-LINT CONFIG")
		os.Exit(2)
	}
	wrong, edges, err := check(os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, "lintarrows:", err)
		os.Exit(1)
	}
	for _, w := range wrong {
		fmt.Fprintln(os.Stderr, "lintarrows:", w)
	}
	if len(wrong) > 0 {
		os.Exit(1)
	}
	fmt.Printf("lintarrows: %d imports judged as docs/design.md says\n", edges)
}

// edge is one import, in a file of its own.
type edge struct{ from, to, file string }

func check(linter, config string) (wrong []string, edges int, err error) {
	linter, err = filepath.Abs(linter)
	if err != nil {
		return nil, 0, err
	}
	dir, err := os.MkdirTemp("", "lintarrows")
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	all, err := write(dir, config)
	if err != nil {
		return nil, 0, err
	}
	reported, err := lint(linter, dir)
	if err != nil {
		return nil, 0, err
	}
	for _, e := range all {
		switch want := !allowed(e.from, e.to); {
		case want && !reported[e.file]:
			wrong = append(wrong, fmt.Sprintf("%s may not import %s, and the linter lets it", e.from, e.to))
		case !want && reported[e.file]:
			wrong = append(wrong, fmt.Sprintf("%s may import %s, and the linter does not let it", e.from, e.to))
		}
	}
	return wrong, len(all), nil
}

// write makes the module. The packages themselves stay empty, so that imports
// both ways make no circle.
func write(dir, config string) ([]edge, error) {
	rules, err := os.ReadFile(config)
	if err != nil {
		return nil, err
	}
	files := map[string]string{
		".golangci.yml": string(rules),
		"go.mod":        "module " + module + "\n\ngo 1.26\n",
	}
	packages := slices.Concat(append(floors, others)...)
	var all []edge
	for _, from := range packages {
		files[from+"/empty.go"] = "package p\n"
		for _, to := range packages {
			if to == from || strings.HasPrefix(to, "cmd/") && strings.HasPrefix(from, "cmd/") {
				continue
			}
			file := from + "/to-" + strings.ReplaceAll(to, "/", "-") + "/import.go"
			files[file] = fmt.Sprintf("package p\n\nimport _ %q\n", module+"/"+to)
			all = append(all, edge{from, to, file})
		}
	}
	for name, text := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// lint returns the files that depguard reports.
func lint(linter, dir string) (map[string]bool, error) {
	cmd := exec.Command(linter, "run", "--enable-only=depguard", "--output.json.path=stdout",
		"--show-stats=false", "--issues-exit-code=0", "./...")
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", linter, err)
	}
	var result struct {
		Issues []struct {
			FromLinter string
			Text       string
			Pos        struct{ Filename string }
		}
	}
	if err := json.Unmarshal(out, &result); err != nil {
		return nil, fmt.Errorf("read the linter's report: %w", err)
	}
	reported := map[string]bool{}
	for _, issue := range result.Issues {
		if issue.FromLinter != "depguard" {
			return nil, fmt.Errorf("%s: %s", issue.Pos.Filename, issue.Text)
		}
		reported[filepath.ToSlash(issue.Pos.Filename)] = true
	}
	return reported, nil
}
