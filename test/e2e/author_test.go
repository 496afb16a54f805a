// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

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

func scriptAuthor(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 0, "author")
	variables, err := author()
	ts.Check(err)
	for _, v := range variables {
		name, value, _ := strings.Cut(v, "=")
		ts.Setenv(name, value)
	}
}

// The examples are built and tested as their authors would, with the SDK as it is
// shipped, and keep their contract as binaries, too.
func TestExamples(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"backend-xts", "backend-http"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			variables, err := author()
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(t.TempDir(), name)
			if err := os.CopyFS(dir, os.DirFS(filepath.Join("../../examples", name))); err != nil {
				t.Fatal(err)
			}
			run := func(command string, arguments ...string) {
				t.Helper()
				cmd := exec.CommandContext(t.Context(), command, arguments...)
				cmd.Dir, cmd.Env = dir, append(os.Environ(), variables...)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
				}
			}
			run("go", "mod", "edit", "-dropreplace", "github.com/flexnbd/flexnbd")
			run("go", "build", "-mod=mod", "-o", "flexnbd-"+name, ".")
			run("go", "vet", "./...")
			run("go", "test", "./...")
			if name != "backend-xts" {
				return // the other one's disk is on a web server, and can't be written
			}
			key, image := filepath.Join(dir, "key"), filepath.Join(dir, "image")
			if err := errors.Join(os.WriteFile(key, fastBytes(3, 64), 0o600), os.WriteFile(image, nil, 0o600), os.Truncate(image, 8<<20+4096)); err != nil {
				t.Fatal(err)
			}
			run(programs.flexnbd, "plugin", "check", "./flexnbd-"+name+",key="+key, "--file", image)
		})
	}
}
