// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// author is what a third party's Go has: the SDK of this tree, as `make dist` ships it.
var author = sync.OnceValues(func() ([]string, error) {
	tree, err := filepath.Abs("../..")
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(filepath.Dir(programs.flexnbd), "author")
	proxy := filepath.Join(dir, "goproxy")
	made := exec.Command("go", "run", "-C", filepath.Join(tree, "tools"), "./goproxy", tree, "v0.1.0", proxy)
	if out, err := made.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%v: %w: %s", made.Args, err, out)
	}
	return goWith(proxy, filepath.Join(dir, "mod"))
})

// goWith returns the variables of a Go that has the SDK from a module proxy in a folder,
// and other modules from where this tree has them. Its module cache is its own, since
// another SDK of the same version may be in the usual one.
func goWith(proxy, cache string) ([]string, error) {
	out, err := exec.Command("go", "env", "GOMODCACHE", "GOPROXY", "GOCACHE").Output()
	if err != nil {
		return nil, err
	}
	env := strings.Split(strings.TrimSpace(string(out)), "\n")
	return []string{
		"GOMODCACHE=" + cache,
		"GOPROXY=file://" + proxy + ",file://" + filepath.Join(env[0], "cache", "download") + "," + env[1],
		"GOCACHE=" + env[2],
		"GONOSUMDB=github.com/flexnbd/flexnbd",
		"GOFLAGS=-modcacherw -trimpath", // so that the cache can be removed, and what is compiled is shared
		"GOWORK=off",
		"CGO_ENABLED=0",
	}, nil
}

// scriptQuote finds the block of code after the line that says `FILE`.
func scriptQuote(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "quote FILE")
	page, err := os.ReadFile("../../PLUGINS.md")
	ts.Check(err)
	_, rest, named := strings.Cut(string(page), "`"+filepath.Base(args[0])+"`:\n\n```go\n")
	code, _, ended := strings.Cut(rest, "\n```\n")
	if !named || !ended {
		ts.Fatalf("PLUGINS.md does not show %s", args[0])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(code+"\n"), 0o644))
}

func scriptAuthor(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 0, "author")
	variables, err := author()
	ts.Check(err)
	for _, v := range variables {
		name, value, _ := strings.Cut(v, "=")
		ts.Setenv(name, value)
	}
}
