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
	for _, b := range []setting{{fileBackend, "tcp"}, {blockdevBackend, "unix"}} {
		t.Run(b.name, func(t *testing.T) {
			onEachCrash(t, func(t *testing.T, sig syscall.Signal) {
				const size, crashes = 40 << 20, 10
				arguments := b.disk(t, size)
				s := serveIn(t, surroundings{network: b.network}, arguments...)
				rival := newRival(t, b, arguments[1])
				running := startFio(t, s, "--rw=randwrite", "--bs=4k", "--iodepth=16", "--size=40M", "--verify=crc32c",
					"--do_verify=1", "--verify_fatal=1")
				for i := range crashes {
					// All that fio writes and reads passes the server: the
					// last crash comes before fio's end.
					s.moves(2 * size / (crashes + 2))
					rival.tryDuring(func() { s.replaced("backend", sig) })
					if n := s.state()["num_clients"]; n != "1" {
						t.Fatalf("after crash %d there are %s clients, want fio's one\n%s", i+1, n, s.log.String())
					}
				}
				running.stillRuns()
				for _, job := range running.wait() {
					if job.Error != 0 || job.Write.Bytes != size || job.Read.Bytes != size {
						t.Errorf("fio wrote %d bytes and verified %d, of %d; error %d", job.Write.Bytes, job.Read.Bytes, size, job.Error)
					}
				}
				if n := s.state()["backend_restarts"]; n != strconv.Itoa(crashes) {
					t.Errorf("status says backend_restarts=%s, want %d", n, crashes)
				}
				s.stop(syscall.SIGTERM)
				rival.check()
			})
		})
	}
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
		s := setting{memoryBackend, "tcp"}.serve(t, 1<<20)
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
			disk := sparseFile(t, size)
			s := serve(t, "--file", disk)
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
	plugin, broken := breakable(t)
	s := serve(t, "--file", sparseFile(t, 1<<20), "--backend", plugin)
	want := randomBytes(1, 4096)
	s.write(t, want, 0)
	conn := s.transmission()
	if err := os.WriteFile(broken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.crash("backend", syscall.SIGKILL)
	request := nbd.Request{Command: nbd.CmdRead, Length: 4096}
	if _, err := conn.Write(nbd.AppendRequest(nil, request)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "two attempts have failed", func() bool {
		return strings.Count(s.log.String(), "exit status 3") >= 2
	})
	if state := s.state()["backend_state"]; state != "restarting" {
		t.Errorf("status says backend_state=%s", state)
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	if errno, got := answer(t, conn, request); errno != 0 || !bytes.Equal(got, want) {
		t.Errorf("the read that waited: %v, and not what was written", errno)
	}
}

// They do not wait for ever.
func TestBackendThatDoesNotStartIsGivenUp(t *testing.T) {
	t.Parallel()
	plugin, broken := breakable(t)
	s := serve(t, "--file", sparseFile(t, 1<<20), "--backend", plugin)
	if err := os.WriteFile(broken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.crash("backend", syscall.SIGKILL)
	// This takes the pauses between the attempts, all together half a minute.
	r := run(t, bytes.NewReader([]byte{1}), programs.flexnbd, s.command("write", 0, 1)...)
	if r.status != 1 || !strings.Contains(r.stderr, "input/output error") {
		t.Errorf("the write that waited: exit status %d, %s", r.status, r.stderr)
	}
	s.wantGivenUp(`started \d+ times within`)
	if !strings.Contains(s.log.String(), "exit status 3") {
		t.Errorf("the log does not say why:\n%s", s.log.String())
	}
	s.signal(syscall.SIGTERM)
	s.endedWith(1)
}

// Connections do not depend on the process that accepted them, and the next one
// listens where that did.
func TestTransportIsReplaced(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			s := setting{fileBackend, network}.serve(t, 1<<20)
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
			if n := s.state()["num_clients"]; n != "1" {
				t.Errorf("there are %s clients, want 1", n)
			}
			_ = conn.Close()
		})
	}
}
