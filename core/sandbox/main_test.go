// SPDX-License-Identifier: GPL-3.0-or-later

package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	seccomp "github.com/elastic/go-seccomp-bpf"

	"github.com/flexnbd/flexnbd/core/sandbox/sandboxtest"
)

// This binary is also the process that confines itself: a test's own could not leave.
const (
	inside    = "test-inside"
	oldKernel = "test-old-kernel"
)

func TestMain(m *testing.M) {
	switch os.Args[0] {
	case inside:
		confined()
	case oldKernel:
		beOld()
	default:
		// A process with the race detector sleeps for a second when it ends, unless it is
		// told not to.
		if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
			panic(err)
		}
		os.Exit(m.Run())
	}
}

// job is what the process inside is to do.
type job struct {
	Policy   Policy
	Attempts []attempt
}

// attempt is something that may be forbidden.
type attempt struct {
	What string // see sandboxtest
	On   string // a path, an address or a number
}

func (a attempt) String() string { return a.What + " " + a.On }

// outcome is what became of a job.
type outcome struct {
	Report Report
	Said   []string // of each attempt
}

// confined reads a job, enters the sandbox and makes the attempts, each on a thread
// that was there before.
func confined() {
	var j job
	if err := json.NewDecoder(os.Stdin).Decode(&j); err != nil {
		panic(err)
	}
	turn, done := make(chan attempt), make(chan string)
	go func() {
		runtime.LockOSThread()
		for a := range turn {
			if a.What == "dropAll" {
				done <- sandboxtest.Outcome(DropCapabilities())
			} else {
				done <- sandboxtest.Try(a.What, a.On)
			}
		}
	}()
	turn <- attempt{What: "nothing"} // now the thread is there
	<-done
	var o outcome
	var err error
	if o.Report, err = Enter(j.Policy); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for _, a := range j.Attempts {
		turn <- a
		o.Said = append(o.Said, <-done)
	}
	if err := json.NewEncoder(os.Stdout).Encode(o); err != nil {
		panic(err)
	}
}

// beOld is a kernel that does not know Landlock.
func beOld() {
	err := seccomp.LoadFilter(seccomp.Filter{
		NoNewPrivs: true, Flag: seccomp.FilterFlagTSync,
		Policy: seccomp.Policy{
			DefaultAction: seccomp.ActionAllow,
			Syscalls:      []seccomp.SyscallGroup{{Action: pretendMissing, Names: []string{"landlock_create_ruleset"}}},
		},
	})
	if err == nil {
		err = syscall.Exec("/proc/self/exe", []string{inside}, os.Environ())
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// run has the attempts made under the policy.
func run(t *testing.T, role string, p Policy, attempts ...attempt) outcome {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{role}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var o outcome
	if err := errors.Join(json.NewEncoder(in).Encode(job{p, attempts}), in.Close(), json.NewDecoder(out).Decode(&o), cmd.Wait()); err != nil {
		t.Fatal(err)
	}
	return o
}
