// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/core/acl"
	"github.com/flexnbd/flexnbd/core/control"
	"github.com/flexnbd/flexnbd/core/nbd"
)

// evictionTime is how soon a client that is no longer allowed has to be gone.
const evictionTime = time.Second

// replaceACL replaces the access list and returns when that had been answered.
func (s *server) replaceACL(entries ...string) time.Time {
	s.t.Helper()
	answer, err := control.Call(s.t.Context(), s.sock, "acl", acl.Numeric(entries)...) // as the command does
	if err != nil || answer != (control.Answer{Text: "updated"}) {
		s.t.Fatalf("acl %q: %+v, %v", entries, answer, err)
	}
	return time.Now()
}

// reader reads all the time, from a local address, with 16 requests in flight.
type reader struct {
	conn    net.Conn
	replies atomic.Int64
	ended   chan struct{}
	last    time.Time // when the connection ended; to be looked at after ended
	err     error
}

// startReader starts a reader of what s serves, and returns once it has its first reply.
func (s *server) startReader(from string) *reader {
	t := s.t
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := dialer.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	enterTransmission(t, conn)
	r := &reader{conn: conn, ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		r.err = r.run()
		r.last = time.Now()
	}()
	t.Cleanup(func() { _ = conn.Close(); <-r.ended })
	eventually(t, "the reader from "+from+" reads", func() bool { return r.replies.Load() > 0 })
	return r
}

func (r *reader) run() error {
	const length = 16 << 10
	request := nbd.AppendRequest(nil, nbd.Request{Command: nbd.CmdRead, Length: length})
	for range 16 {
		if _, err := r.conn.Write(request); err != nil {
			return err
		}
	}
	for {
		if _, err := io.CopyN(io.Discard, r.conn, nbd.SimpleReplySize+length); err != nil {
			return err
		}
		r.replies.Add(1)
		if _, err := r.conn.Write(request); err != nil {
			return err
		}
	}
}

// wantEvicted checks that the reader's connection ended soon after replaced.
func (r *reader) wantEvicted(t *testing.T, replaced time.Time) {
	t.Helper()
	select {
	case <-r.ended:
	case <-time.After(patience):
		t.Fatal("a client that is no longer allowed is still served")
	}
	if took := r.last.Sub(replaced); took > evictionTime {
		t.Errorf("a client that is no longer allowed was served for another %v", took)
	}
}

// goesOn checks that the reader is still served.
func (r *reader) goesOn(t *testing.T) {
	t.Helper()
	goal := r.replies.Load() + 17 // more than there were requests in flight
	eventually(t, "the client that is allowed reads on", func() bool {
		select {
		case <-r.ended:
			t.Fatalf("a client that is allowed was disconnected: %v", r.err)
		default:
		}
		return r.replies.Load() >= goal
	})
}

// Under load, the list is another one at once: who is not on it is cut, who is on
// it notices nothing.
func TestACLIsReplacedUnderLoad(t *testing.T) {
	s := serve(t, "--file", sparseFile(t, 1<<20))
	s.write(t, randomBytes(1, 64<<10), 0)
	stays := s.startReader("127.0.0.1")
	for range 5 {
		var leave []*reader
		for range 3 {
			leave = append(leave, s.startReader("127.0.0.2"))
		}
		replaced := s.replaceACL("127.0.0.1", "192.0.2.0/24")
		for _, r := range leave {
			r.wantEvicted(t, replaced)
		}
		stays.goesOn(t)
		if r := run(t, nil, programs.flexnbd, append(s.command("read", 0, 1), "--bind", "127.0.0.2")...); r.status != 1 {
			t.Errorf("read from an address that is not allowed: exit status %d", r.status)
		}
		eventually(t, "the clients are counted off", func() bool { return s.state()["num_clients"] == "1" })
		s.replaceACL("127.0.0.0/8")
	}
	stays.goesOn(t)
	if n := strings.Count(s.log.String(), "the access list does not allow it any more"); n != 15 {
		t.Errorf("the log has %d evictions, want 15\n%s", n, s.log.String())
	}
	_ = stays.conn.Close()
}

// A client is cut wherever it is: before its handshake, idle, or with replies that
// it does not read.
func TestEvictionInEveryState(t *testing.T) {
	const length = 8 << 20
	s := serve(t, "--file", sparseFile(t, length))
	idle, deaf := s.transmission(), s.transmission()
	var batch []byte
	for range 8 {
		batch = nbd.AppendRequest(batch, nbd.Request{Command: nbd.CmdRead, Length: length})
	}
	if _, err := deaf.Write(batch); err != nil {
		t.Fatal(err)
	}
	conns := map[string]net.Conn{"silent": s.silent(), "idle": idle, "deaf": deaf}
	eventually(t, "the clients are counted", func() bool { return s.state()["num_clients"] == "3" })
	replaced := s.replaceACL("192.0.2.1")
	for s.state()["num_clients"] != "0" {
		if time.Since(replaced) > evictionTime {
			t.Fatalf("after %v there are still clients: %v", evictionTime, s.state())
		}
	}
	for name, conn := range conns {
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the %s client is still connected", name)
		}
	}
}

// as runs a command as another user and group.
func as(t *testing.T, uid, gid uint32, args ...string) int {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), programs.flexnbd, args...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	_ = cmd.Run()
	return cmd.ProcessState.ExitCode()
}

// On a Unix socket the kernel says who somebody is.
func TestACLOfUsersAndGroups(t *testing.T) {
	needsRoot(t, "become other users")
	s := serveIn(t, surroundings{network: "unix", addr: publicSocket(t)}, "--default-deny", "--file", sparseFile(t, 1<<20))
	if err := os.Chmod(s.addr, 0o666); err != nil { // the list alone decides
		t.Fatal(err)
	}
	const other = 12345
	for _, list := range []struct {
		entries           string
		root, user, group bool // who is let in: root, user 65534, and somebody with group 65534
	}{
		{"", false, false, false},
		{"uid:0", true, false, false},
		{"uid:root", true, false, false},
		{"uid:65534", false, true, false},
		{"gid:65534", false, true, true},
		{"gid:0", true, false, false},
		{"uid:0 gid:65534", true, true, true},
		{"127.0.0.1 ::/0 0.0.0.0/0", false, false, false},
		{"uid:12345 192.0.2.1", false, false, true},
	} {
		s.replaceACL(strings.Fields(list.entries)...)
		for who, want := range map[[2]uint32]bool{{0, 0}: list.root, {nobody, nobody}: list.user, {other, nobody}: list.group} {
			status := as(t, who[0], who[1], s.command("read", 0, 1)...)
			if got := status == 0; got != want || status > 1 {
				t.Errorf("list %q: user %d with group %d: exit status %d, want it let in: %v\n%s", list.entries, who[0], who[1], status, want, s.log.String())
			}
		}
	}
	s.replaceACL("uid:0")
	conn := s.transmission()
	replaced := s.replaceACL("uid:65534")
	cutAfter(t, conn)
	if took := time.Since(replaced); took > evictionTime {
		t.Errorf("a user who is no longer allowed was connected for another %v", took)
	}
}

// publicSocket is a path for a socket that every user can reach.
func publicSocket(t *testing.T) string {
	t.Helper()
	dir := shortDir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir + "/nbd"
}
