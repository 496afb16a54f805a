// SPDX-License-Identifier: GPL-3.0-or-later

package launch

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/sandbox"
)

// IsChild says whether the arguments are those of a process that a launcher has started.
func IsChild(args []string) bool { return len(args) == 3 && args[1] == childVerb }

// Become confines this process and makes it the program that it was started for. It
// returns that program's arguments where it is this very binary, which then goes on
// with them, and whether it is confined, or another user than the server was started as;
// else it does not return, unless it fails.
func Become() (args []string, confined bool, err error) {
	report, told := os.NewFile(fdReport, "report"), os.NewFile(fdSpec, "spec")
	unix.CloseOnExec(fdReport) // so its end says that the program runs
	args, confined, err = become(told)
	if err != nil {
		failed := refusal(err)
		failed.Child = true
		_ = json.NewEncoder(report).Encode(failed)
	}
	_ = report.Close()
	return args, confined, err
}

func become(told *os.File) (args []string, confined bool, err error) {
	data, err := readAll(told)
	_ = told.Close()
	if err != nil {
		return nil, false, fmt.Errorf("read what to do: %w", err)
	}
	var spec child
	if err := json.Unmarshal(data, &spec); err != nil {
		return nil, false, fmt.Errorf("read what to do: %w", err)
	}
	exe := spec.Exe
	if spec.Opened {
		if exe, err = opened(); err != nil {
			return nil, false, err
		}
	}
	if spec.Policy != nil {
		setName(spec.Name) // by a file that is out of reach afterwards
		if _, err := sandbox.Enter(*spec.Policy); err != nil {
			return nil, false, err
		}
	}
	if exe == "" {
		return spec.Args, spec.Policy != nil || spec.Other, nil
	}
	return nil, false, syscall.Exec(exe, spec.Args, spec.Env)
}

// opened is the path of a program that the launcher has opened. The program itself
// does not get the descriptor, unless it is a script: the interpreter opens it again.
func opened() (string, error) {
	path := fmt.Sprintf("/proc/self/fd/%d", fdExe)
	var first [2]byte
	if _, err := unix.Pread(fdExe, first[:], 0); err != nil {
		return "", fmt.Errorf("read the program: %w", err)
	}
	if !bytes.Equal(first[:], []byte("#!")) {
		unix.CloseOnExec(fdExe)
	}
	return path, nil
}
