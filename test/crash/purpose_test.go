// SPDX-License-Identifier: GPL-3.0-or-later

package crash

import (
	"bytes"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/core/client"
	"github.com/flexnbd/flexnbd/core/nbd"
)

// lingering is how long a process stays at a point where something is done to it, in
// milliseconds.
const lingering = 1500

// breaks breaks the migration off.
func (s *scenario) breaks(want string) {
	s.t.Helper()
	if answer, err := s.a.ask("break"); err != nil || answer.Text != want {
		s.t.Errorf("break says %+v, %v, want %q", answer, err, want)
	}
}

// Each migration comes to one point more, since that one lingers only once.
func broken(t *testing.T) {
	points := []string{"source-copying", "source-next-written", "source-held", "source-drained", "source-before-prepare", "source-prepare-answered"}
	var f faults
	for _, point := range points {
		f = append(f, lingers(point, lingering))
	}
	s := begin(t, f, nil)
	for _, point := range points {
		s.migrate(order{})
		s.a.comesTo(point, 1)
		s.breaks("mirror stopped")
		s.a.says("is_mirroring", "false")
		s.unnoticed()
	}
	s.migrate(order{speed: slow})
	s.copies()
	s.b.kill()
	s.attemptFails("")
	s.breaks("mirror stopped") // while it waits to try again
	s.breaks("not mirroring")
	s.b.restart()
	s.servedBy(s.a)
	s.migrate(order{})
	s.departs()
}

func brokenTooLate(t *testing.T) {
	s := begin(t, faults{lingers("source-before-commit", lingering)}, nil)
	s.migrate(order{})
	s.a.comesTo("source-before-commit", 1)
	s.breaks("mirror completed")
	s.departs()
}

func sourceStoppedBySignal(t *testing.T) {
	each(t, []string{"source-copying", "source-held"}, func(t *testing.T, point string) {
		s := begin(t, faults{lingers(point, lingering)}, nil)
		s.mayNotice = true
		s.migrate(order{})
		s.a.comesTo(point, 1)
		s.a.signal(syscall.SIGTERM)
		s.a.ends(0)
		s.plain()
		s.goesOn()
	})
	t.Run("source-before-commit", func(t *testing.T) {
		t.Parallel()
		s := begin(t, faults{lingers("source-before-commit", lingering)}, nil)
		s.migrate(order{})
		s.a.comesTo("source-before-commit", 1)
		s.a.signal(syscall.SIGTERM)
		s.a.ends(1)
		s.committed()
		s.a.exits(0, "serve")
		s.finish(s.b)
	})
}

// raw is a client that the test plays: it begins a write and sends some of its bytes.
func raw(t *testing.T, addr string, off, length, sent int64) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Connect(within(t, patience), conn, client.Options{}); err != nil {
		t.Fatal(err)
	}
	message := nbd.AppendRequest(nil, nbd.Request{Command: nbd.CmdWrite, Cookie: 1, Offset: uint64(off), Length: uint32(length)})
	if _, err := conn.Write(append(message, bytes.Repeat([]byte{0xa5}, int(sent))...)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// The client's write is as long as they get, covers the whole disk, and stops before
// its first byte, so that the model of the disk stays right.
func stalledClient(t *testing.T) {
	s := newScenario(t, setup{size: 1 << 30, fill: 4 << 20})
	s.start(nil, nil)
	conn := raw(t, s.a.addr, 0, s.disk.Size(), 0)
	defer func() { _ = conn.Close() }()
	began := time.Now()
	s.migrate(order{})
	s.a.ends(0)
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the migration took %v", took)
	}
	s.finish(s.b)
}

// What is left of a write whose client has gone is in the source's image, and has to
// be in the destination's too. There is no model of that: the images are compared.
func clientCutMidWrite(t *testing.T) {
	s := newScenario(t, setup{})
	s.a.serve()
	s.b.listen()
	s.migrate(order{speed: slow})
	s.copies()
	for i := range int64(3) {
		conn := raw(t, s.a.addr, i<<18, s.disk.Size()-i<<18, 2<<20+i*4096+100)
		_ = conn.Close()
	}
	s.unlimited()
	s.a.ends(0)
	s.b.says("clients_allowed", "true")
	if err := s.end(); err != nil {
		t.Error(err)
	}
	one, err := os.ReadFile(s.a.image)
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(s.b.image)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, other) {
		t.Error("the destination does not have what the source has")
	}
	if !bytes.Contains(one, bytes.Repeat([]byte{0xa5}, 1<<10)) {
		t.Error("nothing of the writes has arrived, so that nothing was tested")
	}
}
