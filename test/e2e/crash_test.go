// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// crashes are what happens to a plugin: it is gone, or it stands still and
// answers nothing.
var crashes = []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP}

// onEachCrash runs a test once for each kind of crash.
func onEachCrash(t *testing.T, test func(t *testing.T, sig syscall.Signal)) {
	for _, sig := range crashes {
		t.Run(unix.SignalName(sig), func(t *testing.T) { test(t, sig) })
	}
}

// crash does something to a plugin, backend or transport, and returns its process
// number.
func (s *server) crash(kind string, sig syscall.Signal) int {
	s.t.Helper()
	pid := number(s.t, s.state()[kind+"_pid"])
	if err := unix.Kill(pid, sig); err != nil {
		s.t.Fatalf("%v for the %s: %v", sig, kind, err)
	}
	return pid
}

// replaced crashes a plugin and waits until another one serves.
func (s *server) replaced(kind string, sig syscall.Signal) {
	s.t.Helper()
	old := strconv.Itoa(s.crash(kind, sig))
	eventually(s.t, "the "+kind+" is replaced", func() bool {
		state := s.state()
		return state[kind+"_pid"] != old && state["backend_state"] == "serving"
	})
}

// traffic is how many bytes the server has read and written so far.
func (s *server) traffic() (n int64) {
	s.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", s.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if key, value, _ := strings.Cut(strings.TrimSpace(line), ": "); key == "rchar" || key == "wchar" {
			n += int64(number(s.t, value))
		}
	}
	return n
}

// moves waits until the server has moved another n bytes.
func (s *server) moves(n int64) {
	s.t.Helper()
	goal := s.traffic() + n
	eventually(s.t, "requests are carried out", func() bool { return s.traffic() >= goal })
}

// One fio, with 16 requests in flight, does not notice that the backend crashes ten
// times; and nobody else gets the disk in between.
func TestFioSeesNoCrash(t *testing.T) {
	needsFio(t)
	on(t, func(t *testing.T, b setting) {
		onEachCrash(t, func(t *testing.T, sig syscall.Signal) {
			const size, crashes = 8 << 20, 10
			arguments := b.arguments(t, size)
			s := serveIn(t, surroundings{network: b.network}, arguments...)
			s.wantLane(b.lane)
			before := descriptors(t, s.cmd.Process.Pid)
			rival := newRival(t, b, arguments[1])
			running := startFio(t, s, verifying(size)...)
			for range crashes {
				s.moves(1 << 20)
				rival.tryDuring(func() { s.replaced("backend", sig) })
				s.wantLane(b.lane) // the next process lends as well
				eventually(t, "there is fio's connection alone", func() bool { return s.state()["num_clients"] == "1" })
			}
			s.moves(2 * size)
			wantVerified(t, running.interrupt(), size)
			if n := s.state()["backend_restarts"]; n != strconv.Itoa(crashes) {
				t.Errorf("status says backend_restarts=%s, want %d", n, crashes)
			}
			s.leaksNone(before)
			s.stop(syscall.SIGTERM)
			rival.check()
		})
	}, fileOnFile, fileOnRing, fileOnRPC, blockdevOnFile)
}

// ask makes one request on a connection of transmission, and returns the answer.
func ask(t *testing.T, conn net.Conn, request nbd.Request, payload []byte) (nbd.Errno, []byte) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(append(nbd.AppendRequest(nil, request), payload...)); err != nil {
		t.Fatalf("%v: %v", request.Command, err)
	}
	return answer(t, conn, request)
}

// What was in the memory of a process is gone with it. That is said, to every
// client and for good: zeroes would be a lie.
func TestLostMemoryFailsForGood(t *testing.T) {
	onEachCrash(t, func(t *testing.T, sig syscall.Signal) {
		s := memoryOnRPC.serve(t, 1<<20)
		s.write(t, bytes.Repeat([]byte{0xa5}, 8192), 0)
		conn := s.transmission()
		s.crash("backend", sig)
		// A process that is sent SIGSTOP may answer once more.
		eventually(t, "the disk has failed", func() bool { return s.state()["backend_state"] == "failed" })
		for i := range 3 {
			// The part that was never written, too: nobody can say so any more.
			for _, off := range []uint64{0, 512 << 10} {
				if errno, _ := ask(t, conn, nbd.Request{Command: nbd.CmdRead, Offset: off, Length: 4096}, nil); errno != nbd.EIO {
					t.Fatalf("read %d at %d: %v, want EIO", i+1, off, errno)
				}
			}
			if errno, _ := ask(t, conn, nbd.Request{Command: nbd.CmdWrite, Length: 4096}, make([]byte, 4096)); errno != nbd.EIO {
				t.Errorf("write %d: %v, want EIO", i+1, errno)
			}
		}
		r := run(t, nil, programs.flexnbd, s.command("read", 0, 4096)...)
		if r.status != 1 || r.stdout != "" || !strings.Contains(r.stderr, "input/output error") {
			t.Errorf("read: exit status %d, %d bytes, %s", r.status, len(r.stdout), r.stderr)
		}
		if state := s.state(); state["backend_state"] != "failed" || state["backend_restarts"] != "0" {
			t.Errorf("status: %v", state)
		}
		if n := len(givenUp("what was in it is gone with it").FindAllString(s.log.String(), -1)); n != 1 {
			t.Errorf("the log says %d times, not once, that the disk is gone:\n%s", n, s.log.String())
		}
		_ = conn.Close()
		s.signal(syscall.SIGTERM)
		s.endedWith(1)
	})
}

// The disk is what was opened, not what has its name now.
func TestRenamedImageSurvivesACrash(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	before, after := randomBytes(1, size/2), randomBytes(2, size/2)
	for name, successor := range map[string][]byte{"nothing has its name": nil, "another file has its name": randomBytes(3, size)} {
		t.Run(name, func(t *testing.T) {
			onEachLane(t, func(t *testing.T, lane string) {
				disk := sparseFile(t, size)
				s := serve(t, "--file", disk, "--lane", lane)
				s.write(t, before, 0)
				renamed := filepath.Join(t.TempDir(), "renamed")
				if err := os.Rename(disk, renamed); err != nil {
					t.Fatal(err)
				}
				if successor != nil {
					if err := os.WriteFile(disk, successor, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				for _, sig := range crashes {
					s.replaced("backend", sig)
					if got := s.read(t, 0, size/2); !bytes.Equal(got, before) {
						t.Fatalf("%v: what was written before is not read", sig)
					}
				}
				s.write(t, after, size/2)
				s.stop(syscall.SIGTERM)
				if got, err := os.ReadFile(renamed); err != nil || !bytes.Equal(got, append(bytes.Clone(before), after...)) {
					t.Errorf("the file that was served does not have what was written (%v)", err)
				}
				got, err := os.ReadFile(disk)
				if successor == nil && !errors.Is(err, fs.ErrNotExist) || successor != nil && !bytes.Equal(got, successor) {
					t.Errorf("what has the old name now is not as it was (%v)", err)
				}
			})
		})
	}
}

// A backend that crashes again and again is given up; whoever waits for it learns
// so.
func TestRestartsAreBounded(t *testing.T) {
	s := serve(t, "--file", sparseFile(t, 1<<20))
	conn := s.transmission()
	for last := 0; ; {
		state := s.state()
		if state["backend_state"] == "failed" {
			break
		}
		if pid := number(t, state["backend_pid"]); pid != last {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			last = pid
		}
		if len(s.plugins) > 100 {
			t.Fatalf("%d backends have crashed, and there comes another one", len(s.plugins)-1)
		}
	}
	s.wantGivenUp(`started \d+ times within`)
	if errno, _ := ask(t, conn, nbd.Request{Command: nbd.CmdWrite, Length: 1}, []byte{1}); errno != nbd.EIO {
		t.Errorf("write on an old connection: %v, want EIO", errno)
	}
	_ = conn.Close()
	s.signal(syscall.SIGTERM)
	s.endedWith(1)
}

// givenUp is the line of the log that says that there is no disk any more.
func givenUp(why string) *regexp.Regexp {
	return regexp.MustCompile(`(?m)^E:\d+ \S+ \S+: the disk has failed for good: every request is answered with EIO .*` + why)
}

// wantGivenUp checks that the disk has failed, and that everybody is told.
func (s *server) wantGivenUp(why string) {
	s.t.Helper()
	if state := s.status(); state["backend_state"] != "failed" {
		s.t.Errorf("status: %v", state)
	}
	r := run(s.t, bytes.NewReader([]byte{1}), programs.flexnbd, s.command("write", 0, 1)...)
	if r.status != 1 || !strings.Contains(r.stderr, "input/output error") {
		s.t.Errorf("write: exit status %d, %s", r.status, r.stderr)
	}
	if !givenUp(why).MatchString(s.log.String()) {
		s.t.Errorf("no line of the log says that the disk is given up, with %q\n%s", why, s.log.String())
	}
}

// breakable is a backend that starts only while it is not broken.
func breakable(t *testing.T) (plugin, broken string) {
	t.Helper()
	dir := shortDir(t)
	plugin, broken = filepath.Join(dir, "plugin"), filepath.Join(dir, "broken")
	script := fmt.Sprintf("#!/bin/sh\n[ ! -e %s ] || exit 3\nexec %s\n", broken, filepath.Join(programs.plugins, "flexnbd-backend-file"))
	if err := os.WriteFile(plugin, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return plugin, broken
}

// Clients wait for a backend that does not start at the first attempt.
func TestRestartIsTriedAgain(t *testing.T) {
	s, broken := serveBreakable(t, laneRPC)
	want := randomBytes(1, 4096)
	s.write(t, want, 0)
	p := s.pipeline()
	s.breakBackend(broken, syscall.SIGKILL)
	read := p.send(nbd.Request{Command: nbd.CmdRead, Length: 4096}, nil)
	eventually(t, "two attempts have failed", func() bool {
		return strings.Count(s.log.String(), "exit status 3") >= 2
	})
	if state := s.state()["backend_state"]; state != "restarting" {
		t.Errorf("status says backend_state=%s", state)
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	if got := p.next(); got.cookie != read || got.errno != 0 || !bytes.Equal(got.data, want) {
		t.Errorf("the read that waited: %v, or not what was written", got.errno)
	}
}

// On the file lane nobody waits for a backend that is dead, or stands still, who just
// reads and writes.
func TestReadsAndWritesGoOnWithoutABackend(t *testing.T) {
	t.Parallel()
	onEachCrash(t, func(t *testing.T, sig syscall.Signal) {
		const size = 1 << 20
		s, broken := serveBreakable(t, laneFile)
		old := randomBytes(1, size)
		s.write(t, old, 0)
		p := s.pipeline()
		s.breakBackend(broken, sig)
		flush := p.send(nbd.Request{Command: nbd.CmdFlush}, nil)
		durable := p.send(nbd.Request{Command: nbd.CmdWrite, Flags: nbd.CmdFlagFUA, Offset: 4096, Length: 4096}, old[4096:8192])

		again := randomBytes(2, 64<<10)
		for _, n := range []int{1, 4096, 64 << 10} { // a long one is sent from the descriptor
			p.wantRead(0, old[:n])
			p.wantWrite(size/2, again[:n])
			p.wantRead(size/2, again[:n])
		}
		if got := s.read(t, size/2, len(again)); !bytes.Equal(got, again) {
			t.Error("a new client does not read what was just written")
		}
		eventually(t, "two attempts have failed", func() bool {
			return strings.Count(s.log.String(), "exit status 3") >= 2
		})
		p.wantWrite(0, again[:4096])
		if state := s.state(); state["backend_state"] != "restarting" || state["lane"] != laneFile {
			t.Errorf("status: %v", state)
		}
		if err := os.Remove(broken); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if got := p.next(); got.errno != 0 || got.cookie != flush && got.cookie != durable {
				t.Errorf("those that waited: %+v, want a success of %d and %d", got, flush, durable)
			}
		}
		p.wantRead(0, again[:4096])
	})
}

// A client that takes none of the bytes that it has asked for, which may be sent
// from the descriptor of a process that is gone, does not hold up the next process.
func TestRestartWaitsForNoClient(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	s := serve(t, "--file", sparseFile(t, size))
	s.wantLane(laneFile)
	data := randomBytes(1, size)
	s.write(t, data, 0)
	stalled := s.pipeline()
	for range 16 {
		stalled.send(nbd.Request{Command: nbd.CmdRead, Length: size}, nil)
	}
	if _, err := stalled.r.Peek(1); err != nil {
		t.Fatal(err)
	}
	s.replaced("backend", syscall.SIGKILL)
	s.pipeline().want(0, nbd.Request{Command: nbd.CmdFlush}, nil)
	for len(stalled.sent) > 0 {
		if got := stalled.next(); got.errno != 0 || !bytes.Equal(got.data, data) {
			t.Fatalf("a read that was under way: %v, right data: %v", got.errno, bytes.Equal(got.data, data))
		}
	}
}

// They do not wait for ever.
func TestBackendThatDoesNotStartIsGivenUp(t *testing.T) {
	t.Parallel()
	onEachLane(t, func(t *testing.T, lane string) {
		t.Parallel()
		s, broken := serveBreakable(t, lane)
		p := s.pipeline()
		s.breakBackend(broken, syscall.SIGKILL)
		// This takes the pauses between the attempts, all together half a minute.
		waits := p.send(nbd.Request{Command: nbd.CmdWrite, Length: 1, Flags: nbd.CmdFlagFUA}, []byte{1})
		if got := p.nextWithin(2 * patience); got.cookie != waits || got.errno != nbd.EIO {
			t.Errorf("the write that waited: %v, want EIO", got.errno)
		}
		s.wantGivenUp(`started \d+ times within`)
		if !strings.Contains(s.log.String(), "exit status 3") {
			t.Errorf("the log does not say why:\n%s", s.log.String())
		}
		p.close()
		s.signal(syscall.SIGTERM)
		s.endedWith(1)
	})
}

// serveBreakable serves a file of 1 MiB with a backend that does not start while the
// file broken exists.
func serveBreakable(t *testing.T, lane string) (s *server, broken string) {
	t.Helper()
	plugin, broken := breakable(t)
	s = serve(t, "--file", sparseFile(t, 1<<20), "--backend", plugin, "--lane", lane)
	s.wantLane(lane)
	return s, broken
}

// breakBackend crashes the backend and lets no other one start.
func (s *server) breakBackend(broken string, sig syscall.Signal) {
	s.t.Helper()
	if err := os.WriteFile(broken, nil, 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.crash("backend", sig)
	// One that is sent SIGSTOP may answer once more.
	eventually(s.t, "the backend is missed", func() bool { return s.state()["backend_state"] == "restarting" })
}

// Connections do not depend on the process that accepted them, and the next one
// listens where that did.
func TestTransportIsReplaced(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			s := setting{fileBackend, laneFile, network}.serve(t, 1<<20)
			address := s.addr
			conn := s.transmission()
			want := randomBytes(1, 4096)
			for _, sig := range append(crashes, crashes...) {
				s.replaced("transport", sig)
				if errno, _ := ask(t, conn, nbd.Request{Command: nbd.CmdWrite, Length: 4096}, want); errno != 0 {
					t.Fatalf("%v: write on the connection of before: %v", sig, errno)
				}
				if got := s.read(t, 0, 4096); !bytes.Equal(got, want) { // a new one
					t.Fatalf("%v: another connection reads something else", sig)
				}
				if got := s.state()["address"]; got != address {
					t.Fatalf("%v: the server listens on %s now, not %s", sig, got, address)
				}
			}
			eventually(t, "the first connection alone is left", func() bool { return s.state()["num_clients"] == "1" })
			_ = conn.Close()
		})
	}
}
