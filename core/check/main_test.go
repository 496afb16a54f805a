// SPDX-License-Identifier: GPL-3.0-or-later

package check

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/host"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// binaries is the folder with the sound plugins, built as they are shipped.
var binaries string

// This binary is also the broken plugins: see roles.
func TestMain(m *testing.M) {
	if role := roles[os.Args[0]]; role != nil {
		role()
		os.Exit(0)
	}
	unix.Umask(0o022) // a plugin that others can write is refused
	dir, err := os.MkdirTemp("", "flexnbd-check-test-")
	if err == nil {
		err = build(dir)
	}
	if err == nil {
		// A process with the race detector sleeps for a second when it ends, unless
		// it is told not to.
		err = os.Setenv("GORACE", "atexit_sleep_ms=0")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "check tests:", err)
		os.Exit(1)
	}
	binaries = dir
	goleak.VerifyTestMain(m, goleak.Cleanup(func(status int) {
		_ = os.RemoveAll(dir)
		os.Exit(status)
	}))
}

func build(dir string) error {
	for _, packages := range [][]string{
		{"build", "-o", dir, "./cmd/flexnbd-backend-file", "./cmd/flexnbd-transport-tcp", "./cmd/flexnbd-transport-unix"},
		{"build", "-o", filepath.Join(dir, "flexnbd-backend-memory"), "./test/plugin-memory"},
	} {
		command := exec.Command("go", packages...)
		command.Dir = filepath.Join("..", "..")
		if out, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
	}
	return nil
}

// built finds a sound plugin, as the command line does.
func built(t *testing.T, name string) host.Program {
	t.Helper()
	return at(t, filepath.Join(binaries, name))
}

func at(t *testing.T, path string) host.Program {
	t.Helper()
	kind, err := KindOf(path)
	if err != nil {
		t.Fatal(err)
	}
	spec, err := host.ParseSpec(kind, path)
	if err != nil {
		t.Fatal(err)
	}
	program, err := (&host.Finder{}).Find(spec)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// self is this binary in a role.
func self(t *testing.T, kind wire.Kind, name, role string) host.Program {
	t.Helper()
	finder := host.Finder{Stock: []host.Stock{{Kind: kind, Name: name, Args: []string{role}}}}
	program, err := finder.Find(host.Spec{Kind: kind, Name: name, Stock: true})
	if err != nil {
		t.Fatal(err)
	}
	return program
}
