// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

func is(err, target error) bool { return errors.Is(err, target) }

// exited waits for the end of p and returns how it was.
func exited(t *testing.T, p *Process) error {
	t.Helper()
	select {
	case <-p.Exited():
		return p.runner.exit
	case <-time.After(patience):
		t.Fatal("the process does not end")
		return nil
	}
}

// gone says whether a process has ended; whoever adopted it may not reap it.
func gone(pid string) bool {
	s := state(pid)
	return s == "" || s == "Z" || s == "X"
}

func TestStoppedPluginEndsByItself(t *testing.T) {
	h, log := newHost(t)
	before := descriptors(t)
	p, err := h.Start(t.Context(), self("test-memory"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.OpenDisk(t.Context(), wire.Disk{Location: "4096"})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Errorf("Stop: %v", err)
	}
	if err := exited(t, p); err != nil {
		t.Errorf("the plugin ended with %v", err)
	}
	if err := s.Flush(t.Context()); !is(err, wire.ErrPluginGone) {
		t.Errorf("Flush afterwards: %v", err)
	}
	settled(t, before)
	if strings.Contains(log.String(), "plugin_pid") {
		t.Errorf("an orderly end was logged: %s", log)
	}
}

func TestStopMayBeCalledAgainAndAtOnce(t *testing.T) {
	p, log := started(t, self("test-memory"))
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := p.Stop(context.Background()); err != nil {
				t.Errorf("Stop: %v", err)
			}
			select {
			case <-p.Exited():
			default:
				t.Error("Stop has returned, and the process has not ended")
			}
		})
	}
	all.Wait()
	if err := p.Stop(t.Context()); err != nil || exited(t, p) != nil {
		t.Errorf("Stop: %v; the plugin ended with %v", err, exited(t, p))
	}
	if log.String() != "" {
		t.Errorf("logged: %s", log)
	}
}

func TestPluginThatIsStoppedByASignalIsKilledAtOnce(t *testing.T) {
	unhurried(t)
	for _, inTime := range []bool{true, false} {
		p, log := started(t, self("test-memory"))
		s, err := p.OpenDisk(t.Context(), wire.Disk{Location: "4096"})
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(p.PID(), unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		await(t, "the process is stopped", func() bool { return state(strconv.Itoa(p.PID())) == "T" })
		flushed := make(chan error)
		go func() { flushed <- s.Flush(context.Background()) }()
		ctx, cancel := context.WithCancel(t.Context())
		if !inTime {
			cancel() // no time at all
		}
		begin := time.Now()
		if err := p.Stop(ctx); err != nil {
			t.Errorf("Stop: %v", err)
		}
		cancel()
		if took := time.Since(begin); took >= stopWait { // it can't end by itself
			t.Errorf("Stop took %v", took)
		}
		if how := fmt.Sprint(exited(t, p)); how != "signal: killed" {
			t.Errorf("the plugin ended with %s", how)
		}
		if err := <-flushed; !is(err, wire.ErrPluginGone) || store.Errno(err) != syscall.EIO {
			t.Errorf("the call under way: %v", err)
		}
		if strings.Contains(log.String(), "does not end by itself") || strings.Contains(log.String(), "unexpectedly") {
			t.Errorf("log: %s", log)
		}
	}
}

func TestCrashFailsCallsAndIsLoggedOnce(t *testing.T) {
	for location, want := range map[string]string{"crash": "exit status 7", "panic": "exit status 2"} {
		p, log := started(t, self("test-unruly"))
		s, err := p.OpenDisk(t.Context(), wire.Disk{Location: location})
		if err != nil {
			t.Fatal(err)
		}
		err = s.WriteAt(t.Context(), []byte("x"), 0, 0)
		if !is(err, wire.ErrPluginGone) || store.Errno(err) != syscall.EIO || !strings.HasPrefix(err.Error(), "backend test: ") {
			t.Errorf("%s: WriteAt: %v", location, err)
		}
		if how := fmt.Sprint(exited(t, p)); how != want {
			t.Errorf("%s: the plugin ended with %s", location, how)
		}
		if err := p.Stop(t.Context()); err != nil {
			t.Errorf("%s: Stop: %v", location, err)
		}
		if n := strings.Count(log.String(), "ended unexpectedly"); n != 1 || !strings.Contains(log.String(), "how=\""+want+"\"") && !strings.Contains(log.String(), "how="+want) {
			t.Errorf("%s: logged %d times: %s", location, n, log)
		}
		if location == "panic" && !strings.Contains(log.String(), "panic: on purpose") {
			t.Errorf("the panic is not in the log: %s", log)
		}
	}
}

func TestGrandchildNeitherHidesACrashNorHangsStop(t *testing.T) {
	unhurried(t)
	for _, location := range []string{"grandchild", "daemon"} {
		for _, crash := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, crash %v", location, crash), func(t *testing.T) {
				pidfile := filepath.Join(t.TempDir(), "pid")
				h, log := newHost(t)
				p, err := h.Start(t.Context(), self("test-unruly"))
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = p.Stop(context.Background()) }()
				s, err := p.OpenDisk(t.Context(), wire.Disk{Location: location, Options: map[string]string{"pidfile": pidfile}})
				if err != nil {
					t.Fatal(err)
				}
				grandchild, err := os.ReadFile(pidfile)
				if err != nil {
					t.Fatal(err)
				}
				pid, err := strconv.Atoi(string(grandchild))
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = unix.Kill(pid, unix.SIGKILL) }() // of the daemon
				if crash {
					if err := s.WriteAt(t.Context(), []byte("x"), 0, 0); !is(err, wire.ErrPluginGone) {
						t.Errorf("WriteAt: %v", err)
					}
					if how := fmt.Sprint(exited(t, p)); how != "exit status 7" {
						t.Errorf("the plugin ended with %s", how)
					}
					await(t, "the crash is logged", func() bool { return strings.Contains(log.String(), "ended unexpectedly") })
				}
				begin := time.Now()
				if err := p.Stop(t.Context()); err != nil {
					t.Errorf("Stop: %v", err)
				}
				if took := time.Since(begin); took > stopWait {
					t.Errorf("Stop took %v", took)
				}
				if location == "grandchild" {
					await(t, "the grandchild is gone", func() bool { return gone(string(grandchild)) })
				} else if gone(string(grandchild)) {
					t.Error("the daemon is gone: this test has lost its point")
				}
			})
		}
	}
}

func TestServiceManagersSignalsDoNotEndAPlugin(t *testing.T) {
	p, _ := started(t, self("test-memory"))
	s, err := p.OpenDisk(t.Context(), wire.Disk{Location: "4096"})
	if err != nil {
		t.Fatal(err)
	}
	for _, signal := range []syscall.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP} {
		if err := unix.Kill(-p.PID(), signal); err != nil {
			t.Fatal(err)
		}
	}
	// A signal is delivered before the process runs on, so the answers show it.
	for range 10 {
		if err := s.WriteAt(t.Context(), []byte("x"), 0, 0); err != nil {
			t.Fatalf("WriteAt: %v", err)
		}
	}
	if err := p.Stop(t.Context()); err != nil || exited(t, p) != nil {
		t.Errorf("Stop: %v; the plugin ended with %v", err, exited(t, p))
	}
}

func TestKilledHostLeavesNoPluginBehind(t *testing.T) {
	for _, location := range []string{"idle", "busy"} {
		base := folder(t)
		host := exec.Command(selfExe, location)
		host.Args = []string{"test-host", location}
		host.Env = append(os.Environ(), "TMPDIR="+base, "XDG_RUNTIME_DIR=")
		stdout, err := host.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		log := &logBuffer{}
		host.Stderr = log
		if err := host.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(stdout).ReadString('\n')
		if err != nil {
			t.Errorf("%s: %v: %s", location, err, log)
		}
		plugin := strings.TrimSpace(line)
		if location == "busy" && err == nil {
			await(t, "the plugin is busy", func() bool { return strings.Contains(log.String(), "busy") })
		}
		if gone(plugin) {
			t.Errorf("%s: plugin %q is gone before its host is: %s", location, plugin, log)
		}
		_ = host.Process.Kill()
		_ = host.Wait()
		await(t, "plugin "+plugin+" is gone", func() bool { return gone(plugin) })
	}
}

func TestHostsFolderIsGoneWhenItIsClosed(t *testing.T) {
	base := folder(t)
	t.Setenv("XDG_RUNTIME_DIR", base)
	h, _ := newHost(t)
	p, err := h.Start(t.Context(), self("test-memory"))
	if err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(base); len(left) != 1 {
		t.Errorf("%v in %s, want one folder", left, base)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if err := h.dir.remove(); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(base); len(left) != 0 {
		t.Errorf("%v are left in %s", left, base)
	}
	if h.dir, err = newRunDir(os.Getenv, nil); err != nil { // for Close
		t.Fatal(err)
	}
}
