// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/core/logging"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// patience is for what should take no time at all.
const patience = 20 * time.Second

// self is this binary in a role.
func self(role string, args ...string) Program {
	return Program{Kind: wire.KindBackend, Name: "test", Path: "builtin", exe: selfExe, args: append([]string{role}, args...)}
}

// shell is a program of the shell's.
func shell(script string, args ...string) Program {
	args = append([]string{"sh", "-c", script}, args...)
	return Program{Kind: wire.KindBackend, Name: "test", Path: "/x/flexnbd-backend-test", exe: "/bin/sh", args: args}
}

// shelled is this binary in a role, with standard output as descriptor 9 too.
func shelled(t *testing.T, role string) Program {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return bash(`exec 9>&1; exec -a "$1" "$0"`, path, role)
}

func bash(script string, args ...string) Program {
	p := shell(script, args...)
	p.exe = "/bin/bash"
	return p
}

// logBuffer is a log that can be read while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// newHost makes a host that is closed at the end of the test, and its log.
func newHost(t *testing.T) (*Host, *logBuffer) {
	t.Helper()
	log := &logBuffer{}
	h, err := New(logging.New(log, logging.Verbose))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("log:\n%s", log)
		}
	})
	return h, log
}

// started starts a program that is stopped at the end of the test.
func started(t *testing.T, program Program) (*Process, *logBuffer) {
	t.Helper()
	h, log := newHost(t)
	p, err := h.Start(t.Context(), program)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Stop(context.Background()) })
	return p, log
}

// await waits for a state.
func await(t *testing.T, what string, reached func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !reached() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// children returns the processes that this one has started and not yet reaped.
func children(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil || len(files) == 0 {
		t.Fatalf("this kernel does not tell a process's children: %v", err)
	}
	var pids []string
	for _, f := range files {
		b, _ := os.ReadFile(f) // a thread may be gone by now
		pids = append(pids, strings.Fields(string(b))...)
	}
	return pids
}

// descriptors counts what this process has open.
func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// settled checks that nothing of a process is left. go-plugin closes its
// connection a moment later.
func settled(t *testing.T, fds int) {
	t.Helper()
	if left := children(t); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
	await(t, fmt.Sprintf("%d descriptors are open again", fds), func() bool { return descriptors(t) <= fds })
}

// unhurried gives plugins as long as it takes to end by themselves, on a machine that
// is busy with other things too. What takes stopWait all the same is waited for in
// vain.
func unhurried(t *testing.T) { shorten(t, &stopWait, patience) }

// shorten sets a time for one test.
func shorten(t *testing.T, which *time.Duration, to time.Duration) {
	old := *which
	*which = to
	t.Cleanup(func() { *which = old })
}

func TestFailedStartIsExplainedAndLeavesNothing(t *testing.T) {
	dir := folder(t)
	file := func(name, text string) Program {
		path := put(t, filepath.Join(dir, name), text)
		return Program{Kind: wire.KindBackend, Name: name, Path: path, exe: path, args: []string{path}}
	}
	gone := file("gone", "")
	if err := os.Remove(gone.exe); err != nil {
		t.Fatal(err)
	}
	locked := file("locked", "")
	if err := os.Chmod(locked.exe, 0o600); err != nil {
		t.Fatal(err)
	}
	const normal, short = 0, 300 * time.Millisecond
	for name, c := range map[string]struct {
		program Program
		wait    time.Duration // for the handshake or the description
		want    []string
	}{
		"missing":           {gone, normal, []string{"backend plugin gone (" + gone.Path + ")", "no such file", "is not there"}},
		"no program":        {file("text", "some text\n"), normal, []string{"exec format error", "no program for this machine"}},
		"no interpreter":    {file("script", "#!/does/not/exist\n"), normal, []string{"no such file", "the interpreter"}},
		"not executable":    {locked, normal, []string{"permission denied", "check its mode", "noexec"}},
		"ends":              {shell("echo words >&2; echo last words >&2; exit 3"), normal, []string{"(/x/flexnbd-backend-test)", "exit status 3", `"last words"`}},
		"ends in silence":   {shell("exit 0"), normal, []string{"exit status 0", "last words: none"}},
		"dies of a signal":  {shell("kill -SEGV $$"), normal, []string{"ended before its handshake", "segmentation fault"}},
		"prints":            {shell("echo Hello; sleep 1000"), normal, []string{`printed "Hello"`, "no flexnbd plugin"}},
		"prints and ends":   {shell("echo Hello; exit 1"), normal, []string{`printed "Hello"`}},
		"prints much":       {shell("head -c 100000 /dev/zero | tr '\\0' x; echo"), normal, []string{`printed "xxxx`, `..."`}},
		"closes its output": {shell("exec >&-; sleep 1000"), normal, []string{"closed its standard output without a handshake"}},
		"hangs":             {shell("sleep 1000"), short, []string{"said nothing", "within 300ms"}},
		"other version":     {shell("echo '1|99|unix|/x|grpc'; sleep 1000"), normal, []string{"speaks version 99", "this flexnbd speaks 1", "install a build"}},
		"not gRPC":          {shell("echo '1|1|unix|/x|netrpc'; sleep 1000"), normal, []string{"handshake failed", "netrpc"}},
		"wrong kind":        {self("test-transport"), normal, []string{"is a transport, not a backend", "--transport"}},
		"hangs when asked":  {shelled(t, "test-stopped"), short, []string{"did not say what it is within 300ms"}},
		"ends when asked":   {shelled(t, "test-dropout"), normal, []string{"right after its handshake", "exit status 4", `"no more"`}},
	} {
		t.Run(name, func(t *testing.T) {
			h, log := newHost(t)
			before := descriptors(t)
			if c.wait != normal && name == "hangs" {
				shorten(t, &startWait, c.wait)
			} else if c.wait != normal {
				shorten(t, &describeWait, c.wait)
			}
			p, err := h.Start(t.Context(), c.program)
			if err == nil {
				_ = p.Stop(context.Background())
				t.Fatal("Start succeeds")
			}
			for _, want := range append(c.want, "backend plugin "+c.program.Name+" ("+c.program.Path+"): ") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			settled(t, before)
			if left, _ := filepath.Glob(filepath.Join(h.dir.path, socketDirs)); len(left) > 0 {
				t.Errorf("%v are left", left)
			}
			if strings.Contains(log.String(), "unexpectedly") {
				t.Errorf("a failed start was logged as a crash: %s", log)
			}
		})
	}
}

func TestStartIsGivenUpWithItsContext(t *testing.T) {
	why := errors.New("the operator has changed his mind")
	for name, program := range map[string]Program{
		"before the handshake": shell("sleep 1000"),
		"after the handshake":  shelled(t, "test-stopped"),
		"before the start":     self("test-memory"),
	} {
		t.Run(name, func(t *testing.T) {
			h, _ := newHost(t)
			before := descriptors(t)
			ctx, cancel := context.WithCancelCause(t.Context())
			if name == "before the start" {
				cancel(why)
			} else {
				waiting := make(chan struct{})
				defer func() { <-waiting }()
				go func() {
					defer close(waiting)
					await(t, "a process", func() bool { return len(children(t)) > 0 })
					if name == "after the handshake" {
						await(t, "the process is stopped", func() bool { return state(children(t)[0]) == "T" })
					}
					cancel(why)
				}()
			}
			p, err := h.Start(ctx, program)
			if err == nil {
				_ = p.Stop(context.Background())
				t.Fatal("Start succeeds")
			}
			if !errors.Is(err, why) || !strings.Contains(err.Error(), "start given up") {
				t.Errorf("Start: %v", err)
			}
			settled(t, before)
		})
	}
}

// state returns a process's state as in proc(5), or nothing if it is gone.
func state(pid string) string {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return rest[:1]
}
