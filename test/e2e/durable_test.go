// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// What a client may take for durable has been made so on the disk before the
// client is told: the kernel is seen to finish the one before the other is begun.
func TestDurableBeforeTheReply(t *testing.T) {
	needs(t, "strace")
	on(t, func(t *testing.T, b setting) {
		arguments := b.arguments(t, 4<<20)
		s := serveIn(t, surroundings{network: b.network}, arguments...)
		s.wantLane(b.lane)
		s.zeroMapReady()
		conn := s.transmission()
		calls := s.traceCalls(conn, []nbd.Request{
			{Command: nbd.CmdWrite, Offset: 4096, Length: 4096},
			{Command: nbd.CmdWrite, Offset: 8192, Length: 4096, Flags: nbd.CmdFlagFUA},
			{Command: nbd.CmdWrite, Offset: 12288, Length: 1 << 20, Flags: nbd.CmdFlagFUA},
			{Command: nbd.CmdWrite, Offset: 4097, Length: 100, Flags: nbd.CmdFlagFUA},
			{Command: nbd.CmdWrite, Offset: 2 << 20, Length: 4096},
			{Command: nbd.CmdFlush},
			{Command: nbd.CmdWriteZeroes, Offset: 8192, Length: 4096, Flags: nbd.CmdFlagFUA},
			{Command: nbd.CmdTrim, Offset: 4096, Length: 4096, Flags: nbd.CmdFlagFUA},
		})
		// What each has to do on the disk before its reply: store something, and
		// make it durable.
		for i, want := range []struct{ store, sync bool }{
			{true, false}, {true, true}, {true, true}, {true, true}, {true, false}, {false, true}, {true, true}, {true, true},
		} {
			stored, synced := calls[i].onDisk(arguments[1])
			if stored != want.store || synced != want.sync {
				t.Errorf("request %d of the list: stored %v, durable after that %v, want %v; system calls before the reply:\n%s",
					i+1, stored, synced, want, calls[i])
			}
		}
		_ = conn.Close()
	}, fileOnFile, fileOnRing, blockdevOnFile, blockdevOnRPC)
}

// systemCalls are lines of strace, each at the time when the call ended.
type systemCalls []string

func (c systemCalls) String() string { return strings.Join(c, "\n") }

var (
	storing = regexp.MustCompile(`\b(pwrite64|pwritev2?|fallocate|ioctl)\(`)
	syncing = regexp.MustCompile(`\b(fdatasync|fsync)\(|\bpwritev2\(.*RWF_D?SYNC`)
)

// onDisk says whether something was stored at path, and whether a call that makes
// things durable there began after the last such call had ended, or is that call.
func (c systemCalls) onDisk(path string) (stored, synced bool) {
	for _, line := range c {
		// A loop device shows up with its number behind the path.
		if !strings.Contains(line, "<"+path) || strings.Contains(line, "= -1 ") {
			continue
		}
		if storing.MatchString(line) {
			stored, synced = true, false
		}
		if syncing.MatchString(line) {
			synced = true
		}
	}
	return stored, synced
}

// traceCalls makes requests, one after the other, while strace looks at the server
// and its backend. For each it returns the system calls that ended after the reply
// before it was begun, and before its own was.
func (s *server) traceCalls(conn net.Conn, requests []nbd.Request) []systemCalls {
	t := s.t
	t.Helper()
	trace := filepath.Join(t.TempDir(), "trace")
	pids := []string{s.state()["pid"], s.state()["backend_pid"]}
	var said output
	strace := exec.CommandContext(t.Context(), "strace", "-f", "-y", "-s", "32", "-o", trace, "-p", pids[0], "-p", pids[1],
		"-e", "trace=pwrite64,pwritev,pwritev2,fallocate,ioctl,fdatasync,fsync,write,writev,sendmsg,sendto")
	strace.Stderr = &said
	if err := strace.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = strace.Process.Kill() })
	eventually(t, "strace looks at both", func() bool {
		if strings.Contains(said.String(), "not permitted") {
			_ = strace.Wait()
			lacks(t, "nobody may trace a process here: %s", said.String())
		}
		return strings.Contains(said.String(), "Process "+pids[0]+" attached") && strings.Contains(said.String(), "Process "+pids[1]+" attached")
	})
	var replies []string
	for i, request := range requests {
		// A cookie is eight bytes that strace shows as they are.
		name := fmt.Sprintf("REQUEST%c", 'A'+i)
		for _, c := range []byte(name) {
			request.Cookie = request.Cookie<<8 | uint64(c)
		}
		replies = append(replies, `"gDf\230\0\0\0\0`+name) // the magic number, no error, the cookie
		var payload []byte
		if request.Command == nbd.CmdWrite {
			payload = randomBytes(uint64(i), int(request.Length))
		}
		if errno, _ := ask(t, conn, request, payload); errno != 0 {
			t.Fatalf("request %d of the list: %v", i+1, errno)
		}
	}
	if err := strace.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = strace.Wait() // it ends as if by the signal
	text, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	return splitCalls(t, string(text), replies)
}

// unfinished and resumed are the two lines that strace makes of a call when others
// happen between its beginning and its end.
var (
	unfinished = regexp.MustCompile(`^(\d+) +(.*) <unfinished \.\.\.>$`)
	resumed    = regexp.MustCompile(`^(\d+) +<\.\.\. \w+ resumed>(.*)$`)
)

// splitCalls sorts what strace saw by the reply that it came before. It puts the
// halves of a call together, at the place of the second one; but a call that makes
// things durable counts only if nothing was stored between its halves.
func splitCalls(t *testing.T, trace string, replies []string) []systemCalls {
	t.Helper()
	all := make([]systemCalls, len(replies)+1)
	at := 0
	begun := map[string]string{}
	beganAt := map[string]int{}
	for line := range strings.Lines(trace) {
		line = strings.TrimSuffix(line, "\n")
		if at < len(replies) && strings.Contains(line, replies[at]) {
			at++
			continue
		}
		if m := unfinished.FindStringSubmatch(line); m != nil {
			begun[m[1]], beganAt[m[1]] = m[2], len(all[at])
			continue
		}
		if m := resumed.FindStringSubmatch(line); m != nil {
			line = m[1] + " " + begun[m[1]] + m[2]
			since := all[at][min(beganAt[m[1]], len(all[at])):]
			if syncing.MatchString(line) && !storing.MatchString(line) && storing.MatchString(since.String()) {
				continue
			}
		}
		all[at] = append(all[at], line)
	}
	if at < len(replies) {
		t.Fatalf("strace has not seen the reply %s:\n%s", replies[at], trace)
	}
	return all
}

// Linux says once that what was written is lost. Whoever asks later is told, too.
func TestFailedFlushIsNeverForgotten(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]string{"every flush fails": "flush", "the first flush fails": "first-flush"} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, "--file", "1048576", "--backend", programs.traced+",fail="+fail)
			s.wantEveryFlushToFail("this flush was made to fail")
		})
	}
}

// wantEveryFlushToFail makes the flush that fails, and looks at all that follow:
// they fail, on every connection, and the server says why.
func (s *server) wantEveryFlushToFail(why string) {
	t := s.t
	t.Helper()
	write := func(conn net.Conn, flags nbd.CommandFlags) nbd.Errno {
		errno, _ := ask(t, conn, nbd.Request{Command: nbd.CmdWrite, Length: 512, Flags: flags}, randomBytes(1, 512))
		return errno
	}
	first, second := s.transmission(), s.transmission()
	for _, conn := range []net.Conn{first, second, first, s.transmission()} {
		if errno := write(conn, 0); errno != 0 {
			t.Errorf("a write that nobody asked to be durable: %v", errno)
		}
		if errno, _ := ask(t, conn, nbd.Request{Command: nbd.CmdFlush}, nil); errno != nbd.EIO {
			t.Errorf("FLUSH: %v, want EIO", errno)
		}
		if errno := write(conn, nbd.CmdFlagFUA); errno != nbd.EIO {
			t.Errorf("WRITE with FUA: %v, want EIO", errno)
		}
		if errno, got := ask(t, conn, nbd.Request{Command: nbd.CmdRead, Length: 512}, nil); errno != 0 || !bytes.Equal(got, randomBytes(1, 512)) {
			t.Errorf("READ: %v, or not what was written", errno)
		}
	}
	s.signal(syscall.SIGTERM)
	s.endedWith(1)
	for _, want := range []string{"every flush fails from now on", why} {
		if !strings.Contains(s.log.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, s.log.String())
		}
	}
}

// The same with a file system that fails, once: an image on FUSE.
func TestFileSystemThatLosesWritesIsNeverTrustedAgain(t *testing.T) {
	t.Parallel()
	needs(t, "nbdfuse", "nbdkit", "fusermount3")
	needsFUSE(t)
	onEachLane(t, func(t *testing.T, lane string) {
		t.Parallel()
		dir := t.TempDir()
		bytesOfDisk, broken := filepath.Join(dir, "bytes"), filepath.Join(dir, "broken")
		if err := os.WriteFile(bytesOfDisk, make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		disk, detach := nbdfuse(t, "[", "nbdkit", "--exit-with-parent", "eval",
			"get_size=echo "+strconv.Itoa(1<<20),
			"pread=dd if="+bytesOfDisk+" iflag=skip_bytes,count_bytes skip=$4 count=$3 status=none",
			"pwrite=dd of="+bytesOfDisk+" oflag=seek_bytes seek=$4 conv=notrunc status=none",
			"flush=if [ -e "+broken+" ]; then echo EIO the disk is full of holes >&2; exit 1; fi",
			"]")
		t.Run("served", func(t *testing.T) {
			s := serve(t, "--file", disk, "--lane", lane)
			s.wantLane(lane)
			conn := s.transmission()
			if errno, _ := ask(t, conn, nbd.Request{Command: nbd.CmdWrite, Length: 512, Flags: nbd.CmdFlagFUA}, randomBytes(1, 512)); errno != 0 {
				t.Fatalf("WRITE with FUA: %v", errno)
			}
			// Without FUA, and so on the lane: the next flush is to answer for it.
			if errno, _ := ask(t, conn, nbd.Request{Command: nbd.CmdWrite, Offset: 4096, Length: 4096}, randomBytes(1, 4096)); errno != 0 {
				t.Fatalf("WRITE: %v", errno)
			}
			if err := os.WriteFile(broken, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if errno, _ := ask(t, conn, nbd.Request{Command: nbd.CmdFlush}, nil); errno != nbd.EIO {
				t.Fatalf("FLUSH: %v, want EIO", errno)
			}
			if err := os.Remove(broken); err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(disk, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := f.Sync(); err != nil {
				t.Fatalf("the file system still fails: %v", err)
			}
			_ = f.Close()
			s.wantEveryFlushToFail("input/output error")
		})
		detach()
	})
}
