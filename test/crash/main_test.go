// SPDX-License-Identifier: GPL-3.0-or-later

package crash

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// program is flexnbd with failpoints, built by TestMain.
var program string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	unix.Umask(0o022) // a plugin that others can write is refused
	dir, err := os.MkdirTemp("", "flexnbd-crash-")
	if err != nil {
		return complain(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	program = filepath.Join(dir, "flexnbd")
	if err := build(); err != nil {
		return complain(err)
	}
	// Most of the time a scenario waits, for a second until a retry, or for a limit
	// of ten.
	flag.Parse()
	if err := flag.Set("test.parallel", "12"); err != nil {
		return complain(err)
	}
	return m.Run()
}

func build() error {
	args := []string{"build", "-tags", "failpoints", "-o", program}
	if os.Getenv("FLEXNBD_CRASH_RACE") == "1" {
		args = append(args, "-race")
		// Else every process sleeps for a second before it ends.
		if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
			return err
		}
	}
	cmd := exec.Command("go", append(args, "./cmd/flexnbd")...)
	cmd.Dir = "../.."
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%v: %w", cmd.Args, err)
	}
	return nil
}

func complain(err error) int {
	fmt.Fprintln(os.Stderr, "crash tests:", err)
	return 1
}
