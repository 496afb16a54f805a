// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/test/journal"
)

// To any other NBD server a disk goes with --unconfirmed only; its content is there
// afterwards, and the source has written down that it is not the right one any more.
func TestMigrateToOtherServers(t *testing.T) {
	t.Parallel()
	needs(t, "nbdkit", "nbdcopy", "nbd-server", "prlimit", "qemu-nbd")
	const size = 4 << 20
	for name, serving := range map[string]func(t *testing.T, file string) (addr string){
		"nbdkit memory": func(t *testing.T, _ string) string { return nbdkitTCP(t, "memory", itoa(size)) },
		"nbdkit file":   func(t *testing.T, file string) string { return nbdkitTCP(t, "file", file) },
		"nbd-server":    func(t *testing.T, file string) string { return nbdServer(t, file, size) },
		"qemu-nbd": func(t *testing.T, file string) string {
			return startPeer(t, func(port string) []string {
				return []string{"qemu-nbd", "--format=raw", "--persistent", "--shared=8", "--bind=127.0.0.1", "--port=" + port, file}
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := journal.NewDisk(size)
			data, file := filledFile(t, disk, size/2), dataFile(t, size) // what was there does not stay
			source := serve(t, "--file", data)
			addr := serving(t, file)
			source.refusesMirror("Mirror was rejected: ", addr)
			load := startLoad(t, disk, journal.Options{Servers: at(source), Seed: 6, Patience: time.Millisecond})
			load.more(100)
			source.mirror(addr, "--unconfirmed", "--max-speed", "100K")
			source.copies(1)
			load.more(100)
			if err := load.Pause(within(t, patience)); err != nil {
				t.Fatal(err)
			}
			source.hurry()
			source.departs()
			wantRecords(t, data, "MIGRATED")
			copied := filepath.Join(t.TempDir(), "copied")
			must(t, "nbdcopy", "nbd://"+addr, copied)
			checkFile(t, disk, copied)
			wantSame(t, data, copied)
			doesNotStart(t, 3, []string{"could not confirm", addr}, "serve", "--file", data)
		})
	}
}

// nbdServer serves a file with nbd-server, which runs in the background by itself.
func nbdServer(t *testing.T, file string, size int) (addr string) {
	t.Helper()
	addr = "127.0.0.1:" + freePort(t)
	pidFile := filepath.Join(t.TempDir(), "pid")
	// For each connection it closes every descriptor that it might have, one by one: with
	// a limit of 20000 on a busy machine it greets nobody for ten seconds.
	must(t, "prlimit", "--nofile=256", "nbd-server", "-C", "/dev/null", "-p", pidFile, addr, file, itoa(size))
	var pid int
	eventually(t, "nbd-server has written its process number", func() bool {
		text, _ := os.ReadFile(pidFile) // not there yet
		n, err := fmt.Sscan(string(text), &pid)
		return n == 1 && err == nil
	})
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGTERM) })
	eventually(t, "nbd-server serves", func() bool {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	})
	return addr
}

// An oldstyle server that does not take what it is entrusted with is no destination:
// nothing is given away.
func TestMigrateToAnOldstyleServerThatRefuses(t *testing.T) {
	t.Parallel()
	needs(t, "nbdkit")
	refusing := newElder(t, 1<<20, 0)
	refusing.refuses = true
	for name, destination := range map[string]struct{ addr, why string }{
		"ENTRUST": {refusing.addr, "did not accept ENTRUST"},
		"FLUSH":   {nbdkitTCP(t, "--oldstyle", "memory", "1M"), "flushing the destination"}, // nbdkit 1.32 offers it, and refuses it
	} {
		t.Run(name, func(t *testing.T) {
			data := dataFile(t, 1<<20)
			source := serve(t, "--file", data)
			source.mirror(destination.addr)
			source.fails(destination.why)
			source.breaks(0, "mirror stopped")
			if slices.Contains(records(t, data), "MIGRATED") {
				t.Error("the disk was given away to a server that has not taken it over")
			}
			source.read(t, 0, 512)
		})
	}
}

// elder is a destination of flexnbd 0.x.
type elder struct {
	*peer
	mu    sync.Mutex
	disk  []byte
	order []string // what it was sent: "write", "entrust", "disc", once each time it changes

	refuses bool // to take the disk over
}

// newElder listens as one with a disk full of rubbish.
func newElder(t *testing.T, size int, flags nbd.TransmissionFlags) *elder {
	t.Helper()
	e := &elder{disk: bytes.Repeat([]byte{0xee}, size)}
	e.peer = newPeer(t, func(conn net.Conn) {
		defer func() { _ = conn.Close() }()
		if _, err := conn.Write(nbd.AppendOldstyleGreeting(nil, uint64(size), flags)); err != nil {
			return
		}
		for e.request(conn) {
		}
	})
	return e
}

// request carries out a request, as a server that knows three of them.
func (e *elder) request(conn net.Conn) bool {
	header := make([]byte, nbd.RequestSize)
	if _, err := io.ReadFull(conn, header); err != nil {
		e.note("lost")
		return false
	}
	request, err := nbd.DecodeRequest(header)
	if err != nil {
		e.note(err.Error())
		return false
	}
	errno := nbd.Errno(0)
	switch {
	case nbd.IsEntrust(request):
		e.note("entrust")
		if e.refuses {
			errno = nbd.EINVAL
		}
	case request.Command == nbd.CmdWrite && request.Flags == 0 && request.Offset+uint64(request.Length) <= uint64(len(e.disk)):
		e.note("write")
		e.mu.Lock()
		_, err = io.ReadFull(conn, e.disk[request.Offset:][:request.Length])
		e.mu.Unlock()
		if err != nil {
			return false
		}
	case request.Command == nbd.CmdDisc:
		e.note("disc")
		return false
	default:
		e.note(fmt.Sprintf("%+v", request))
		return false
	}
	_, err = conn.Write(nbd.AppendSimpleReply(nil, errno, request.Cookie))
	return err == nil
}

func (e *elder) note(what string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if n := len(e.order); n == 0 || e.order[n-1] != what {
		e.order = append(e.order, what)
	}
}

// To flexnbd 0.x every byte is written, then the disk is entrusted, then the source
// says goodbye.
func TestMigrateToOldFlexnbd(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string]nbd.TransmissionFlags{"no flags": 0, "no flush": nbd.FlagHasFlags} {
		t.Run(name, func(t *testing.T) {
			const size = 3<<20 + 512
			disk := journal.NewDisk(size)
			data := filledFile(t, disk, 1<<20) // the rest is holes, which are written too
			source := serve(t, "--file", data)
			load := startLoad(t, disk, journal.Options{Servers: at(source), Seed: 7, Patience: time.Millisecond})
			load.more(50)
			old := newElder(t, size, flags)
			source.mirror(old.addr, "--max-speed", "100K", "--max-pause", "1m") // one attempt is to be enough
			source.copies(1)
			load.more(50)
			if err := load.Pause(within(t, patience)); err != nil {
				t.Fatal(err)
			}
			source.hurry()
			source.departs()
			wantRecords(t, data, "MIGRATED")
			eventually(t, "the goodbye has come", func() bool {
				old.mu.Lock()
				defer old.mu.Unlock()
				return len(old.order) >= 3
			})
			old.mu.Lock()
			defer old.mu.Unlock()
			if got := strings.Join(old.order, " "); got != "write entrust disc" {
				t.Errorf("the destination was sent %s", got)
			}
			checkDisk(t, disk, bytes.NewReader(old.disk))
		})
	}
}

// elderSource is a source of flexnbd 0.x, connected to a listener.
type elderSource struct {
	t    *testing.T
	conn net.Conn
	next uint64
}

func (s *server) elderSource(size uint64) *elderSource {
	s.t.Helper()
	conn := s.silent()
	e := &elderSource{t: s.t, conn: conn}
	_ = conn.SetDeadline(time.Now().Add(patience))
	greeting := make([]byte, nbd.OldstyleGreetingSize)
	if _, err := io.ReadFull(conn, greeting); err != nil {
		s.t.Fatal(err)
	}
	if got, _, err := nbd.DecodeOldstyleGreeting(greeting); err != nil || got != size {
		s.t.Fatalf("the greeting says %d bytes, want %d; %v", got, size, err)
	}
	return e
}

// ask sends a request and returns its reply.
func (e *elderSource) ask(request nbd.Request, payload []byte) nbd.Errno {
	e.t.Helper()
	e.next++
	request.Cookie = e.next
	if _, err := e.conn.Write(append(nbd.AppendRequest(nil, request), payload...)); err != nil {
		e.t.Fatal(err)
	}
	errno, _ := answer(e.t, e.conn, request)
	return errno
}

// writes sends data at an offset as 0.x does, 8 MiB at a time at most.
func (e *elderSource) writes(data []byte, off int) {
	e.t.Helper()
	const most = 1 << 20
	for begin := 0; begin < len(data); begin += most {
		part := data[begin:min(begin+most, len(data))]
		if errno := e.ask(nbd.Request{Command: nbd.CmdWrite, Offset: uint64(off + begin), Length: uint32(len(part))}, part); errno != 0 {
			e.t.Fatalf("a write at %d: %v", off+begin, errno)
		}
	}
}

func (e *elderSource) entrusts() {
	e.t.Helper()
	// As on the wire, and not as this project's own code has it.
	request := binary.BigEndian.AppendUint32(nil, 0x25609513)
	request = binary.BigEndian.AppendUint32(request, 65536)
	request = append(request, "12345678"...)
	request = append(request, make([]byte, 12)...)
	if _, err := e.conn.Write(request); err != nil {
		e.t.Fatal(err)
	}
	reply := make([]byte, 16)
	if _, err := io.ReadFull(e.conn, reply); err != nil {
		e.t.Fatalf("ENTRUST has no reply: %v", err)
	}
	if want := "\x67\x44\x66\x98\x00\x00\x00\x0012345678"; string(reply) != want {
		e.t.Fatalf("ENTRUST is answered with %x, want %x", reply, want)
	}
}

func (e *elderSource) disconnects() {
	e.t.Helper()
	if _, err := e.conn.Write(nbd.AppendRequest(nil, nbd.Request{Command: nbd.CmdDisc})); err != nil {
		e.t.Fatal(err)
	}
	cutAfter(e.t, e.conn)
}

// A listener for flexnbd 0.x takes over when it is told to, or when all of the disk
// has come; never because a connection ended.
func TestListenForOldFlexnbd(t *testing.T) {
	t.Parallel()
	const size = 2<<20 + 512
	data := fastBytes(8, size)
	for name, c := range map[string]struct {
		send func(e *elderSource)
		owns bool
	}{
		"entrusted": {func(e *elderSource) { e.writes(data, 0); e.entrusts(); e.disconnects() }, true},
		"entrusted, holes left out": {func(e *elderSource) {
			e.writes(data[:1<<20], 0)
			e.entrusts()
			e.disconnects()
		}, true},
		"all of it":               {func(e *elderSource) { e.writes(data, 0); e.disconnects() }, true},
		"all of it, in two parts": {func(e *elderSource) { e.writes(data[1<<20:], 1<<20); e.writes(data[:1<<20], 0); e.disconnects() }, true},
		"not all of it":           {func(e *elderSource) { e.writes(data[:size-1], 0); e.disconnects() }, false},
		"nothing":                 {func(e *elderSource) { e.disconnects() }, false},
		"all of it, and lost":     {func(e *elderSource) { e.writes(data, 0); _ = e.conn.Close() }, false},
		"entrusted, and lost":     {func(e *elderSource) { e.writes(data, 0); e.entrusts(); _ = e.conn.Close() }, false},
		"in the middle of a write": {func(e *elderSource) {
			e.writes(data[:1<<20], 0)
			_, _ = e.conn.Write(nbd.AppendRequest(nil, nbd.Request{Command: nbd.CmdWrite, Offset: 1 << 20, Length: 1<<20 + 512}))
			_, _ = e.conn.Write(data[1<<20:][:1000])
			_ = e.conn.Close()
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			copied := sparseFile(t, size)
			s := listen(t, oldstyle, "--file", copied)
			if c.owns {
				// A failed attempt before makes no difference.
				before := s.elderSource(size)
				before.writes(data[1<<20:], 1<<20)
				_ = before.conn.Close()
				s.reaches("arrival_state", "waiting")
			}
			c.send(s.elderSource(size))
			if !c.owns {
				eventually(t, "the connection's end is noticed", func() bool { return s.state()["arrival_from"] == "" })
				if state := s.state(); state["has_control"] != "false" {
					t.Errorf("the listener has taken over: %v", state)
				}
				wantRecords(t, copied, "INCOMPLETE")
				return
			}
			s.arrives()
			wantRecords(t, copied, "RECEIVED")
			want := data
			if name == "entrusted, holes left out" {
				want = append(append([]byte(nil), data[:1<<20]...), s.file(t, copied)[1<<20:]...)
			}
			if got := s.read(t, 0, size); !bytes.Equal(got, want) {
				t.Error("read is not what was sent")
			}
		})
	}
}

// A disk that was entrusted by somebody who is gone is an operator's to give away.
func TestPromote(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	data, copied := fastBytes(13, size), sparseFile(t, size)
	s := listen(t, oldstyle, "--file", copied)
	source := s.elderSource(size)
	source.writes(data, 0)
	source.entrusts()
	s.reaches("arrival_state", "prepared")
	id := s.state()["prepared_id"]
	if r := run(t, nil, programs.flexnbd, "promote", "--sock", s.sock, id); r.status != 1 || !strings.Contains(r.stderr, "connected") {
		t.Errorf("promote with the source there: exit status %d, it says %q%q", r.status, r.stdout, r.stderr)
	}
	_ = source.conn.Close()
	eventually(t, "the source is gone", func() bool { return s.state()["arrival_from"] == "" })
	if r := run(t, nil, programs.flexnbd, "promote", "--sock", s.sock, id); r.status != 0 || r.stdout != "promoted\n" {
		t.Errorf("promote: exit status %d, it says %q%q", r.status, r.stdout, r.stderr)
	}
	s.arrives()
	wantRecords(t, copied, "RECEIVED")
	if got := s.read(t, 0, size); !bytes.Equal(got, data) {
		t.Error("read is not what was sent")
	}
}

// Between two of today's with the old handshake.
func TestMigrateWithTheOldHandshake(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	disk := journal.NewDisk(size)
	data, copied := filledFile(t, disk, size/2), dataFile(t, size)
	source := serve(t, "--file", data)
	destination := listen(t, oldstyle, "--file", copied)
	load := startLoad(t, disk, journal.Options{Servers: at(source), Seed: 9, Patience: time.Millisecond})
	load.more(50)
	source.mirror(destination.addr, "--max-speed", "100K")
	source.copies(1)
	load.more(50)
	if err := load.Pause(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	source.hurry()
	source.departs()
	destination.arrives()
	checkFile(t, disk, copied)
	wantSame(t, data, copied)
}
