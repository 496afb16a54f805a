// SPDX-License-Identifier: GPL-3.0-or-later

package crash

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// patience is how long to wait for what should come soon, on a busy machine.
const patience = 60 * time.Second

// soon waits until state holds, and says whether it did.
func soon(state func() bool) bool {
	deadline := time.Now().Add(patience)
	for pause := time.Millisecond; !state(); pause = min(2*pause, 20*time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(pause)
	}
	return true
}

// within bounds what takes a context.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// processState is the letter that the kernel has for what a process does; 0 when
// there is no such process.
func processState(pid int) byte {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, found := bytes.Cut(stat, []byte(") "))
	if !found || len(rest) == 0 {
		return 0
	}
	return rest[0]
}

// output is what processes say; many may write and read it.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// needs skips the test when a program is not installed. In CI that is a failure.
func needs(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		lacks(t, name+" is not installed; .ci/run lists the packages that the tests use")
	}
}

func lacks(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
}
