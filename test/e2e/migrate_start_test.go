// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// What is wrong with a destination before anything has begun is said at once, and the
// source serves on.

func TestMirrorWithoutADestination(t *testing.T) {
	t.Parallel()
	source := serve(t, "--file", dataFile(t, 64<<10))
	source.refusesMirror("Mirror failed to connect: ", "127.0.0.1:"+freePort(t))
	source.refusesMirror("Mirror failed to connect: ", "127.0.0.1:"+freePort(t), "--bind", "192.0.2.1")
	for _, bad := range []struct{ words, addr string }{
		{"bad IP address", "localhost:1"},
		{"bad IP port number", "127.0.0.1:0"},
	} {
		source.refusesMirror(bad.words, bad.addr)
	}
	source.refusesMirror("bad bind address", "127.0.0.1:1", "--bind", "localhost")
	source.read(t, 0, 512)
}

// A server that accepts and says nothing is waited for for 10 seconds.
func TestMirrorToASilentServer(t *testing.T) {
	t.Parallel()
	source := serve(t, "--file", dataFile(t, 64<<10))
	silent := newPeer(t, func(net.Conn) {})
	begin := time.Now()
	source.refusesMirror("Remote server failed to respond", silent.addr)
	if took := time.Since(begin); took < 9*time.Second || took > 20*time.Second {
		t.Errorf("the answer took %v, want 10 s", took)
	}
}

// The same for one that falls silent once it has greeted; meanwhile clients are
// served.
func TestMirrorToAServerThatFallsSilent(t *testing.T) {
	t.Parallel()
	data := dataFile(t, 64<<10)
	source := serve(t, "--file", data)
	silent := newPeer(t, func(conn net.Conn) { _, _ = conn.Write(nbd.AppendGreeting(nil, nbd.FlagFixedNewstyle)) })
	refused := make(chan struct{})
	go func() {
		defer close(refused)
		source.refusesMirror("Remote server failed to respond", silent.addr)
	}()
	eventually(t, "the source has connected", func() bool { return silent.connections() > 0 })
	source.refusesSecond(silent.addr)
	if got := source.read(t, 0, 512); string(got) != string(source.file(t, data)[:512]) {
		t.Error("read is not what is in the file")
	}
	<-refused
}

// refusesSecond tries to start a migration while one runs.
func (s *server) refusesSecond(addr string, arguments ...string) {
	s.t.Helper()
	r := run(s.t, nil, programs.flexnbd, s.mirrorTo(addr, arguments...)...)
	if r.status != 1 || r.stderr != "mirror already running\n" {
		s.t.Errorf("a second mirror: exit status %d, it says %q", r.status, r.stderr)
	}
}

func TestMirrorToWhatIsNoDestination(t *testing.T) {
	t.Parallel()
	needs(t, "nbdkit")
	data := dataFile(t, 64<<10)
	source := serve(t, "--file", data)
	say := func(text string) string {
		return newPeer(t, func(conn net.Conn) {
			_, _ = io.WriteString(conn, text)
			_, _ = io.Copy(io.Discard, conn)
		}).addr
	}
	foreign := nbdkitTCP(t, "memory", "64K")
	for name, destination := range map[string]struct{ addr, words string }{
		"not NBD":         {say("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"), "Mirror was rejected: "},
		"wrong magic":     {say("NBDMAGICIHAVEOPS" + "\x00\x03"), "Mirror was rejected: "},
		"hangs up":        {newPeer(t, func(conn net.Conn) { _ = conn.Close() }).addr, "Mirror was rejected: "},
		"an owner":        {serve(t, "--file", sparseFile(t, 64<<10)).addr, "Mirror was rejected: "},
		"itself":          {source.addr, "Mirror was rejected: "},
		"another server":  {foreign, "Mirror was rejected: "},
		"larger":          {listen(t, "--file", sparseFile(t, 64<<10+1)).addr, "Remote size does not match local size: "},
		"smaller":         {listen(t, "--file", sparseFile(t, 64<<10-1)).addr, "Remote size does not match local size: "},
		"not let in":      {listen(t, "--file", sparseFile(t, 64<<10), "127.0.0.9").addr, "Mirror was rejected: "},
		"default deny":    {listen(t, "--file", sparseFile(t, 64<<10), "--default-deny").addr, "Mirror was rejected: "},
		"oldstyle, small": {listen(t, oldstyle, "--file", sparseFile(t, 4096)).addr, "Remote size does not match local size: "},
	} {
		t.Run(name, func(t *testing.T) {
			source.refusesMirror(destination.words, destination.addr)
		})
	}
	if got := source.read(t, 0, 64<<10); string(got) != string(source.file(t, data)) {
		t.Error("read is not what is in the file")
	}
	wantRecords(t, data)
}

// nbdkitTCP is nbdkit on a port of 127.0.0.1; it returns HOST:PORT.
func nbdkitTCP(t *testing.T, arguments ...string) string {
	t.Helper()
	return startPeer(t, func(port string) []string {
		return append([]string{"nbdkit", "--foreground", "--ipaddr", "127.0.0.1", "--port", port}, arguments...)
	})
}

// With --bind a source gets past an access list.
func TestMirrorFromAnAddress(t *testing.T) {
	t.Parallel()
	data, copied := dataFile(t, 64<<10), sparseFile(t, 64<<10)
	source := serve(t, "--file", data)
	destination := listen(t, "--file", copied, "127.0.0.9")
	source.refusesMirror("Mirror was rejected: ", destination.addr, "--bind", "127.0.0.8")
	source.mirror(destination.addr, "--bind", "127.0.0.9")
	source.departs()
	destination.arrives()
	wantSame(t, data, copied)
}

// A sender that is connected is not disturbed by another.
func TestMirrorToABusyDestination(t *testing.T) {
	t.Parallel()
	data, copied := dataFile(t, 4<<20), sparseFile(t, 4<<20)
	source, other := serve(t, "--file", data), serve(t, "--file", dataFile(t, 4<<20))
	destination := listen(t, "--file", copied)
	source.mirror(destination.addr, "--max-speed", "100K")
	source.reaches("migration_state", "copying")
	other.refusesMirror("Mirror was rejected: ", destination.addr)
	source.refusesSecond(destination.addr)
	source.hurry()
	source.departs()
	destination.arrives()
	wantSame(t, data, copied)
}

func TestMirrorOfATooSmallImage(t *testing.T) {
	t.Parallel()
	small := serve(t, "--file", sparseFile(t, 4095))
	small.refusesMirror("Image too small to migrate: ", listen(t, "--file", sparseFile(t, 4095)).addr)
	smallest := serve(t, "--file", dataFile(t, 4096))
	destination := listen(t, "--file", sparseFile(t, 4096))
	smallest.mirror(destination.addr)
	smallest.departs()
	destination.arrives()
}

// What only reads can't give away.
func TestMirrorOfAReadOnlyServer(t *testing.T) {
	t.Parallel()
	data := dataFile(t, 64<<10)
	source := serve(t, "--file", data, "--read-only")
	source.refusesMirror("unrecognised parameters to mirror: ", listen(t, "--file", sparseFile(t, 64<<10)).addr)
	wantRecords(t, data)
}

// Clients at a server that waits for a disk are turned away with a sentence.
func TestListenTurnsClientsAway(t *testing.T) {
	t.Parallel()
	needs(t, "nbdinfo", "qemu-img", "nbdcopy")
	copied := sparseFile(t, 64<<10)
	destination := listen(t, "--file", copied)
	for _, client := range []struct {
		words []string
		told  string // libnbd's own tools show no sentence of a server's
	}{
		{[]string{"nbdinfo", destination.uri()}, "opt_go"},
		{[]string{"nbdcopy", destination.uri(), "null:"}, "server policy"},
		{[]string{"qemu-img", "info", destination.uri()}, "waits for"},
		{append([]string{programs.flexnbd}, destination.command("read", 0, 512)...), "waits for"},
	} {
		r := run(t, nil, client.words[0], client.words[1:]...)
		if r.status == 0 || !strings.Contains(r.stdout+r.stderr, client.told) {
			t.Errorf("%q: exit status %d, it says\n%s%s, want a sentence with %q", client.words, r.status, r.stdout, r.stderr, client.told)
		}
	}
	if state := destination.state(); state["has_control"] != "false" || state["clients_allowed"] != "false" || state["arrival_state"] != "waiting" {
		t.Errorf("after clients were turned away the status is %v", state)
	}
	data := dataFile(t, 64<<10)
	source := serve(t, "--file", data)
	source.mirror(destination.addr)
	source.departs()
	destination.arrives()
	wantSame(t, data, copied)
}
