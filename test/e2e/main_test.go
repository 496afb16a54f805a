// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// The programs under test, built by TestMain.
var programs struct {
	flexnbd string
	memory  string // test/plugin-memory
	traced  string // test/plugin-traced
	// plugins is a folder with the stock plugins as binaries of their own.
	plugins string
}

func TestMain(m *testing.M) {
	if os.Getenv(oldKernel) != "" {
		runOnOldKernel()
	}
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	// A plugin that others can write is refused, and so is one in a folder
	// that others can write.
	unix.Umask(0o022)
	dir, err := os.MkdirTemp("", "flexnbd-e2e-")
	if err != nil {
		return complain(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := build(dir); err != nil {
		return complain(err)
	}
	// Some of the tests that run in parallel wait, for limits of many seconds,
	// while the others work: on few processors, too, they do so together.
	flag.Parse()
	if err := flag.Set("test.parallel", "48"); err != nil {
		return complain(err)
	}
	return m.Run()
}

func complain(err error) int {
	fmt.Fprintln(os.Stderr, "end-to-end tests:", err)
	return 1
}

// build fills programs.
func build(dir string) error {
	programs.flexnbd = filepath.Join(dir, "flexnbd")
	programs.memory = filepath.Join(dir, "plugin-memory")
	programs.traced = filepath.Join(dir, "plugin-traced")
	programs.plugins = filepath.Join(dir, "plugins")
	args := []string{"build"}
	if os.Getenv("FLEXNBD_E2E_RACE") == "1" {
		args = append(args, "-race")
		// Else every process sleeps for a second before it ends.
		if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
			return err
		}
	}
	for _, target := range []struct {
		dir      string
		packages []string
	}{
		{dir, []string{"./cmd/flexnbd", "./test/plugin-memory", "./test/plugin-traced"}},
		{programs.plugins, []string{"./cmd/flexnbd-backend-file", "./cmd/flexnbd-backend-blockdev",
			"./cmd/flexnbd-transport-tcp", "./cmd/flexnbd-transport-unix"}},
	} {
		// Another user runs them in some tests.
		if err := os.MkdirAll(target.dir, 0o755); err != nil {
			return err
		}
		if err := os.Chmod(target.dir, 0o755); err != nil {
			return err
		}
		cmd := exec.Command("go", append(append(args[:len(args):len(args)], "-o", target.dir+"/"), target.packages...)...)
		cmd.Dir = "../.."
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%v: %w", cmd.Args, err)
		}
	}
	return nil
}
