// SPDX-License-Identifier: GPL-3.0-or-later

//go:build failpoints

package failpoint

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	gofail "go.etcd.io/gofail/runtime"
	"golang.org/x/sys/unix"
)

// Enabled says whether this build has failpoints.
const Enabled = true

// The environment variables. The first is gofail's.
const (
	termsVariable = "GOFAIL_FAILPOINTS"
	logVariable   = "FLEXNBD_FAILPOINT_LOG"
)

var (
	registered = map[string]*gofail.Failpoint{} // not changed after init
	reached    *os.File                         // nil: nobody wants to know
)

func init() {
	if err := set(os.Getenv(termsVariable), os.Getenv(logVariable)); err != nil {
		fmt.Fprintln(os.Stderr, "failpoint:", err)
		os.Exit(2)
	}
}

// set checks the terms, which gofail passes over in silence when it can't read
// them, and opens the log.
func set(terms, log string) (err error) {
	if err := checkTerms(terms); err != nil {
		return fmt.Errorf("%s: %w", termsVariable, err)
	}
	for _, name := range points {
		registered[name] = gofail.NewFailpoint(name)
	}
	if log == "" {
		return nil
	}
	if reached, err = os.OpenFile(log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600); err != nil {
		return fmt.Errorf("%s: %w", logVariable, err)
	}
	return nil
}

// Hit is where a test may make the process die, stop or fail. It returns nil when
// the point is off, and otherwise does what the package comment says.
func Hit(name string) error {
	point := registered[name]
	if point == nil {
		panic(fmt.Sprintf("failpoint: %q is not in the list of points", name))
	}
	if reached != nil {
		if _, err := reached.WriteString(name + "\n"); err != nil {
			panic(fmt.Sprintf("failpoint: %s was reached and can't be noted: %v", name, err))
		}
	}
	value, err := point.Acquire()
	if err != nil {
		return nil // off
	}
	return act(name, value.(string))
}

func act(name, action string) error {
	switch errno, text, isError := injected(action); {
	case isError && errno != 0:
		return errno
	case isError:
		return errors.New("failpoint " + name + ": " + text)
	case action == "kill":
		// Linux has marked every thread as killed when this returns, so that none
		// comes back from the kernel.
		mustSignal(unix.Kill(unix.Getpid(), unix.SIGKILL))
		select {}
	case action == "stop":
		stop()
		return nil
	}
	panic(fmt.Sprintf("failpoint: %s has the unknown action %q", name, action))
}

// stop stops the process. The signal goes to the thread that calls, which then
// stops before it does anything else; sent to the process it might go to another
// one, and this one would run on for a while.
func stop() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	mustSignal(unix.Tgkill(unix.Getpid(), unix.Gettid(), unix.SIGSTOP))
}

func mustSignal(err error) {
	if err != nil {
		panic(fmt.Sprintf("failpoint: the process can't signal itself: %v", err))
	}
}
