// SPDX-License-Identifier: GPL-3.0-or-later

package conformance

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/host"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// binaries is the folder with the plugins under test.
var binaries string

func TestMain(m *testing.M) {
	unix.Umask(0o022) // a plugin that others can write is refused
	dir, err := os.MkdirTemp("", "flexnbd-conformance-")
	if err == nil {
		err = build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance tests:", err)
		os.Exit(1)
	}
	binaries = dir
	goleak.VerifyTestMain(m, goleak.Cleanup(func(status int) {
		_ = os.RemoveAll(dir)
		os.Exit(status)
	}))
}

func build(dir string) error {
	command := exec.Command("go", "build", "-o", dir,
		"./cmd/flexnbd-backend-file", "./cmd/flexnbd-backend-blockdev",
		"./cmd/flexnbd-transport-tcp", "./cmd/flexnbd-transport-unix",
		"./test/plugin-memory")
	command.Dir = filepath.Join("..", "..")
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// find finds a built plugin.
func find(t *testing.T, kind wire.Kind, binary string) host.Program {
	t.Helper()
	spec, err := host.ParseSpec(kind, filepath.Join(binaries, binary))
	if err != nil {
		t.Fatal(err)
	}
	program, err := (&host.Finder{}).Find(spec)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// start starts a built plugin, for as long as the test takes.
func start(t *testing.T, kind wire.Kind, binary string) *host.Process {
	t.Helper()
	program := find(t, kind, binary)
	h, err := host.New(hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	p, err := h.Start(t.Context(), program)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}
