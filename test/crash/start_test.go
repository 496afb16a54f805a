// SPDX-License-Identifier: GPL-3.0-or-later

package crash

import (
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// alone is a source with clients, for what must not become a migration.
func alone(t *testing.T, f ...fault) *scenario {
	t.Helper()
	s := newScenario(t, setup{})
	s.a.serve(f...)
	s.startLoad()
	return s
}

// stays checks that nothing has begun, and ends the scenario.
func (s *scenario) stays() {
	s.t.Helper()
	s.a.says("is_mirroring", "false")
	s.unnoticed()
	if r := s.a.records(); !r.IsEmpty() {
		s.t.Errorf("records of a migration that has not begun: %+v", r)
	}
	s.stopLoad()
	// B's image is nobody's: it was never part of this.
	if err := s.history(s.a); err != nil {
		s.t.Error(err)
	}
	if err := s.turns([]string{s.a.addr}); err != nil {
		s.t.Error(err)
	}
	if err := s.end(); err != nil {
		s.t.Error(err)
	}
}

// player is a server at an address that the test plays itself.
func player(t *testing.T, addr string, talk func(net.Conn)) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	conns, ended := make(chan net.Conn), make(chan struct{})
	go func() {
		defer close(conns)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns <- conn
		}
	}()
	go func() {
		defer close(ended)
		for conn := range conns {
			talk(conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-ended
	})
}

func startNobodyListens(t *testing.T) {
	s := alone(t)
	s.refused("Mirror failed to connect: ", order{})
	s.stays()
}

func startHung(t *testing.T) {
	s := alone(t)
	player(t, s.b.addr, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	s.refused("Remote server failed to respond", order{})
	s.stays()
}

func startNotNBD(t *testing.T) {
	s := alone(t)
	for i, text := range []string{"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "NBDMAGICIHAVEOPS\x00\x03"} {
		addr := s.address(5 + i)
		player(t, addr, func(conn net.Conn) {
			_, _ = io.WriteString(conn, text)
			_, _ = io.Copy(io.Discard, conn)
		})
		s.refused("Mirror was rejected: ", order{to: addr})
	}
	s.stays()
}

func startWrongSize(t *testing.T) {
	s := alone(t)
	for _, size := range []int64{s.disk.Size() - 512, s.disk.Size() + 512} {
		makeImage(t, s.b.image, size)
		s.b.listen()
		s.refused("Remote size does not match local size: ", order{})
		if err := s.b.stop(); err != nil {
			t.Error(err)
		}
	}
	s.stays()
}

func startRefusedByACL(t *testing.T) {
	s := alone(t)
	s.b.allow = []string{"192.0.2.1"}
	s.b.listen()
	s.refused("Mirror was rejected: ", order{})
	s.stays()
}

func startNotListening(t *testing.T) {
	s := alone(t)
	s.refused("Mirror was rejected: ", order{to: s.a.addr}) // itself
	s.stays()

	s = newScenario(t, setup{})
	s.options.Servers = s.options.Servers[:1]
	s.a.serve()
	s.b.serve()
	s.startLoad()
	s.refused("Mirror was rejected: ", order{})
	s.stays()
}

func startOtherSender(t *testing.T) {
	s, other := newScenario(t, setup{}), alone(t)
	s.b.listen()
	s.a.serve()
	s.startLoad()
	s.migrate(order{speed: slow})
	s.copies()
	other.refused("Mirror was rejected: ", order{to: s.b.addr})
	other.stays()
	s.unlimited()
	s.departs()
}

// nbdkit serves memory of the disk's size where B would.
func (s *scenario) nbdkit() {
	s.t.Helper()
	needs(s.t, "nbdkit")
	host, port, _ := net.SplitHostPort(s.b.addr)
	cmd := exec.Command("nbdkit", "--foreground", "--ipaddr", host, "--port", port, "memory", strconv.FormatInt(s.disk.Size(), 10))
	cmd.Dir, cmd.WaitDelay = filepath.Dir(program), time.Second
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if !soon(func() bool { return lets(s.b.addr) }) {
		s.t.Fatal("nbdkit does not serve")
	}
}

func startOtherServer(t *testing.T) {
	s := alone(t)
	s.options.Servers = s.options.Servers[:1]
	s.nbdkit()
	s.refused("Mirror was rejected: ", order{})
	s.stays()
}

func startTooSmall(t *testing.T) {
	s := newScenario(t, setup{})
	makeImage(t, s.a.image, 4095)
	makeImage(t, s.b.image, 4095)
	s.a.serve()
	s.b.listen()
	s.refused("Image too small to migrate: ", order{})
	if !s.a.records().IsEmpty() {
		t.Error("there are records")
	}
	if err := s.end(); err != nil {
		t.Error(err)
	}
}

func startNoRecords(t *testing.T) {
	s := alone(t, failsAlways("owner-written", "ENOSPC"))
	s.b.listen()
	s.refused("The migration's records cannot be written: ", order{})
	s.stays()
}

// The first record that listen writes is the probe whether it can, the second
// .INCOMPLETE. It lingers there, since of a process that has ended nobody could tell
// whether it had listened before.
func listenNoRecords(t *testing.T) {
	for earlier, what := range []string{"the probe", ".INCOMPLETE"} {
		for errno, wrong := range map[string]bool{"ENOSPC": true, "": false} {
			t.Run(what+" "+errno, func(t *testing.T) {
				t.Parallel()
				s := newScenario(t, setup{})
				f := faults{lingersLater("owner-written", lingering, earlier)}
				if wrong {
					f = append(f, failsLater("owner-synced", errno, earlier))
				}
				s.b.launch("listen", f)
				s.b.comesTo("owner-written", earlier+1)
				if conn, err := net.Dial("tcp", s.b.addr); err == nil {
					_ = conn.Close()
					t.Errorf("a socket is open before %s is written", what)
				}
				if wrong {
					s.b.ends(1)
					if !s.b.records().IsEmpty() {
						t.Error("there are records")
					}
				} else {
					s.b.answers(s.b.current())
					s.plain()
				}
				if err := s.end(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// oldstyleHello reads an oldstyle greeting.
func oldstyleHello(conn net.Conn) (size uint64, err error) {
	greeting := make([]byte, nbd.OldstyleGreetingSize)
	if _, err = io.ReadFull(conn, greeting); err != nil {
		return 0, err
	}
	size, _, err = nbd.DecodeOldstyleGreeting(greeting)
	return size, err
}
