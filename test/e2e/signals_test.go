// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var endingSignals = []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM}

// heldServer is a server whose backend holds every write until release.
type heldServer struct {
	*server
	trace, fifo string
}

func serveHeld(t *testing.T, arguments ...string) *heldServer {
	t.Helper()
	dir := t.TempDir()
	h := &heldServer{trace: filepath.Join(dir, "trace"), fifo: filepath.Join(dir, "fifo")}
	if err := unix.Mkfifo(h.fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	h.server = serve(t, append(arguments, "--file", "1048576", "--backend", programs.traced+",trace="+h.trace+",hold="+h.fifo)...)
	return h
}

// traced is what has reached the backend so far.
func (h *heldServer) traced() []string {
	text, err := os.ReadFile(h.trace)
	if err != nil {
		h.t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

// release lets the one write that is held go on.
func (h *heldServer) release() {
	h.t.Helper()
	f, err := os.OpenFile(h.fifo, os.O_WRONLY, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		h.t.Fatal(err)
	}
}

// writer is a `flexnbd write` under way.
type writer struct {
	cmd  *exec.Cmd
	said output
}

// startWrite starts a write and returns once the backend has it.
func (h *heldServer) startWrite() *writer {
	h.t.Helper()
	w := &writer{cmd: exec.Command(programs.flexnbd, h.command("write", 4096, 4096)...)}
	w.cmd.Stdin = bytes.NewReader(randomBytes(1, 4096))
	w.cmd.Stderr = &w.said
	if err := w.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = w.cmd.Process.Kill() })
	eventually(h.t, "the write is in flight", func() bool { return slices.Contains(h.traced(), "write 4096 4096") })
	return w
}

// refuses waits until nobody can connect any more.
func (s *server) refuses() {
	s.t.Helper()
	eventually(s.t, "the server accepts nobody", func() bool {
		conn, err := s.connect()
		if err != nil {
			return true
		}
		_ = conn.Close()
		return false
	})
}

func TestSignalLetsRequestsInFlightFinish(t *testing.T) {
	for _, sig := range endingSignals {
		t.Run(sig.String(), func(t *testing.T) {
			h := serveHeld(t)
			w := h.startWrite()
			h.signal(sig)
			h.refuses()
			h.release()
			if err := w.cmd.Wait(); err != nil {
				t.Errorf("the write in flight failed: %v\n%s", err, w.said.String())
			}
			h.endedWith(0)
			want := []string{"write 4096 4096", "written 4096 4096", "flush", "close"}
			if got := h.traced(); !slices.Equal(got, want) {
				t.Errorf("the backend saw %q, want %q", got, want)
			}
		})
	}
}

func TestSecondSignalForcesTheEnd(t *testing.T) {
	h := serveHeld(t)
	w := h.startWrite()
	h.signal(syscall.SIGTERM)
	h.refuses()
	begin := time.Now()
	h.signal(syscall.SIGINT)
	h.endedWith(1)
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the forced end took %v", took)
	}
	if err := w.cmd.Wait(); err == nil {
		t.Error("a write that was never carried out has succeeded")
	}
	if !strings.Contains(h.log.String(), "not flushed may be lost") {
		t.Errorf("the server does not say what a forced end means:\n%s", h.log.String())
	}
}

func TestFailedFlushAtTheEndIsReported(t *testing.T) {
	t.Parallel()
	s := serve(t, "--file", "1048576", "--backend", programs.traced+",fail=flush")
	s.signal(syscall.SIGTERM)
	s.endedWith(1)
	if !strings.Contains(s.log.String(), "this flush was made to fail") {
		t.Errorf("the server does not say why it failed:\n%s", s.log.String())
	}
}

func TestKilledServerLeavesNoPlugin(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b setting) {
		s := b.serve(t, 1<<20)
		launcher := number(t, s.status()["launcher_pid"])
		started, want := children(t, s.cmd.Process.Pid), append([]int{launcher}, s.plugins...)
		slices.Sort(started)
		slices.Sort(want)
		if !slices.Equal(started, want) {
			t.Errorf("the server has started %v, status names %v", started, want)
		}
		s.signal(syscall.SIGKILL)
		s.wait()
		s.pluginsEnd()
		eventually(t, "the launcher has swept up and ended", func() bool {
			left, err := os.ReadDir(s.run)
			return err == nil && len(left) == 0 && unix.Kill(launcher, 0) != nil
		})

		// Where that was killed too, the next server sweeps up, unless somebody has only
		// just begun to run.
		s = b.serve(t, 1<<20)
		if err := unix.Kill(number(t, s.status()["launcher_pid"]), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the launcher's end is in the log", func() bool { return strings.Contains(s.log.String(), "the launcher of plugins has ended") })
		s.signal(syscall.SIGKILL)
		s.wait()
		s.pluginsEnd()
		left, err := os.ReadDir(s.run)
		if err != nil || len(left) != 1 {
			t.Fatalf("in the runtime folder is %v (%v), want the killed server's part", left, err)
		}
		anHourAgo := time.Now().Add(-time.Hour)
		if err := os.Chtimes(filepath.Join(s.run, left[0].Name()), anHourAgo, anHourAgo); err != nil {
			t.Fatal(err)
		}
		next := exec.Command(programs.flexnbd, "read", "--addr", "127.0.0.1", "--port", "1", "--from", "0", "--size", "1")
		next.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+s.run)
		if err := next.Run(); err == nil {
			t.Error("something can be read from port 1")
		}
		if left, err := os.ReadDir(s.run); err != nil || len(left) > 0 {
			t.Errorf("left behind in the runtime folder: %v (%v)", left, err)
		}
	})
}

// A process that is stopped answers nothing and ends by nothing but SIGKILL. It
// is replaced as soon as that is noticed, so the end is in order all the same.
func TestStoppedPluginDoesNotPreventTheEnd(t *testing.T) {
	for _, which := range []string{"backend", "transport"} {
		t.Run(which, func(t *testing.T) {
			t.Parallel()
			s := serve(t, "--file", sparseFile(t, 1<<20))
			pid := number(t, s.status()[which+"_pid"])
			if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			s.signal(syscall.SIGTERM)
			s.endedWith(0)
			if took := time.Since(begin); took > 20*time.Second {
				t.Errorf("the end took %v", took)
			}
		})
	}
}

func TestSilentClientDoesNotHoldUpTheEnd(t *testing.T) {
	t.Parallel()
	s := serve(t, "--file", sparseFile(t, 1<<20))
	for range 3 {
		conn, err := s.connect()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
	}
	eventually(t, "the clients are counted", func() bool { return s.status()["num_clients"] == "3" })
	begin := time.Now()
	s.stop(syscall.SIGTERM)
	if took := time.Since(begin); took > 8*time.Second {
		t.Errorf("the end took %v", took)
	}
}
