// SPDX-License-Identifier: GPL-3.0-or-later

package pythonplugin

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// programs are what the tests run, made by TestMain.
var programs struct {
	flexnbd string
	python  string // flexnbd-backend-python, with the code that it imports beside it
}

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	// A plugin that others can write is refused, and so is one in a folder
	// that others can write.
	unix.Umask(0o022)
	dir, err := os.MkdirTemp("", "flexnbd-python-")
	if err != nil {
		return complain(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	programs.flexnbd = filepath.Join(dir, "flexnbd")
	programs.python = filepath.Join(dir, "plugin", "flexnbd-backend-python")
	if err := installed(); err != nil {
		if os.Getenv("CI") == "" {
			fmt.Fprintln(os.Stderr, "the tests of the plugin in Python are left out:", err)
			return 0
		}
		return complain(err)
	}
	if err := build("./generate.sh", filepath.Dir(programs.python)); err != nil {
		return complain(err)
	}
	args := []string{"build", "-o", programs.flexnbd}
	if os.Getenv("FLEXNBD_E2E_RACE") == "1" {
		args = append(args, "-race")
	}
	if err := build("go", append(args, "../../cmd/flexnbd")...); err != nil {
		return complain(err)
	}
	return m.Run()
}

func complain(err error) int {
	fmt.Fprintln(os.Stderr, "tests of the plugin in Python:", err)
	return 1
}

func build(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%v: %w", cmd.Args, err)
	}
	return nil
}
