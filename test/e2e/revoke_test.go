// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// lendingServer is a server whose backend lends a file and takes it back when told
// to. What is written to the file after that is lost.
type lendingServer struct {
	*server
	trace, fifo string
}

func serveLending(t *testing.T, size string, arguments ...string) *lendingServer {
	t.Helper()
	dir := t.TempDir()
	l := &lendingServer{trace: filepath.Join(dir, "trace"), fifo: filepath.Join(dir, "fifo")}
	if err := unix.Mkfifo(l.fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	l.server = serve(t, append(arguments, "--file", size, "--backend", programs.traced+",trace="+l.trace+",revoke="+l.fifo+",after=move")...)
	l.wantLane(laneFile)
	return l
}

// traced is what has reached the backend so far.
func (l *lendingServer) traced() []string {
	l.t.Helper()
	text, err := os.ReadFile(l.trace)
	if err != nil {
		l.t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

// revoke has the backend take its file back, and waits until it has it.
func (l *lendingServer) revoke() {
	l.t.Helper()
	l.tell("moved")
	l.wantLane(laneRPC)
}

// spoil has the backend fill the file with rubbish, after revoke: that is what
// whoever still uses it reads from now on.
func (l *lendingServer) spoil() {
	l.t.Helper()
	l.tell("spoilt")
}

// tell sends the backend the next line, and waits until it has done as it was told.
func (l *lendingServer) tell(done string) {
	l.t.Helper()
	if err := os.WriteFile(l.fifo, []byte("\n"), 0); err != nil {
		l.t.Fatal(err)
	}
	eventually(l.t, "the backend says "+done, func() bool { return slices.Contains(l.traced(), done) })
}

// wantRevoked checks what the trace and the log say about it.
func (l *lendingServer) wantRevoked() {
	l.t.Helper()
	lines := l.traced()
	begin, end := slices.Index(lines, "revoke"), slices.Index(lines, "revoked")
	if begin < 0 || end < begin {
		l.t.Fatalf("the trace is out of order: revoke is line %d, revoked line %d", begin, end)
	}
	isWrite := func(line string) bool { return strings.HasPrefix(line, "write ") }
	if i := slices.IndexFunc(lines[:begin], isWrite); i >= 0 {
		l.t.Errorf("before, the backend was asked to %s", lines[i])
	}
	if !slices.ContainsFunc(lines[end:], isWrite) {
		l.t.Error("afterwards, no write has come to the backend")
	}
}

// A fio that writes and verifies does not notice that the backend takes its file back.
func TestFioSeesNoRevocation(t *testing.T) {
	needsFio(t)
	const size = 8 << 20
	l := serveLending(t, "8388608")
	running := startFio(t, l.server, verifying(size)...)
	l.moves(3 * size)
	l.revoke()
	l.moves(3 * size)
	l.spoil()
	l.moves(3 * size)
	wantVerified(t, running.interrupt(), size)
	l.wantRevoked()
	l.stop(syscall.SIGTERM)
	if strings.Contains(l.log.String(), "failed") {
		t.Errorf("a request has failed:\n%s", l.log.String())
	}
}

// Long reads, whose bytes go from the descriptor to the socket, neither, whatever the
// client does with them.
func TestCopySeesNoRevocation(t *testing.T) {
	t.Parallel()
	needs(t, "nbdcopy")
	image := checkingImage{size: 64 << 20, seed: 5}
	l := serveLending(t, "67108864")
	must(t, "nbdcopy", "--request-size=1048576", image.create(t), l.uri())
	if first := l.traced(); slices.ContainsFunc(first, func(line string) bool { return strings.HasPrefix(line, "write ") }) {
		t.Errorf("on the file lane, writes have come to the backend: %q", first[0])
	}

	ctx, cancel := context.WithTimeout(t.Context(), commandTime)
	defer cancel()
	reader := exec.CommandContext(ctx, "nbdcopy", "--request-size=1048576", "--no-extents", l.uri(), "-")
	reader.Stderr = os.Stderr
	copied, err := reader.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := reader.Start(); err != nil {
		t.Fatal(err)
	}
	// What is not taken stops everybody, the server included.
	first := make([]byte, image.size/4)
	if _, err := io.ReadFull(copied, first); err != nil {
		t.Fatal(err)
	}
	l.revoke()
	l.spoil()
	image.check(t, io.MultiReader(bytes.NewReader(first), copied))
	if err := reader.Wait(); err != nil {
		t.Errorf("%v: %v", reader.Args, err)
	}

	want := randomBytes(3, 4096)
	l.write(t, want, 4096)
	if got := l.read(t, 4096, len(want)); !bytes.Equal(got, want) {
		t.Error("read is not what was written")
	}
	l.wantRevoked()
}

// A client that takes none of the bytes that it has asked for does not keep the
// backend from its file, and gets the right ones in the end.
func TestRevocationWaitsForNoClient(t *testing.T) {
	t.Parallel()
	const clients, requests = 4, 16
	l, data := serveStalled(t, clients, requests)
	begin := time.Now()
	l.revoke()
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the backend had to wait %v for its file", took)
	}
	other := l.pipeline()
	other.wantRead(0, data[:4096])
	other.wantWrite(0, data[:4096])
	l.spoil()
	l.takeReplies(data)
	other.wantRead(0, data)
}

// What sendfile has put into a socket are pages of the file, not copies of them. They
// arrive as they were also when the backend has put something else there meanwhile.
func TestBytesUnderWayOutliveTheLoan(t *testing.T) {
	t.Parallel()
	l, data := serveStalled(t, 1, 1)
	l.revoke()
	l.spoil()
	l.takeReplies(data)
}

// stalledServer is one with clients that have asked for something and not taken it.
type stalledServer struct {
	*lendingServer
	clients []*pipeline
}

// serveStalled has each client read the whole disk, which is as long as a read from a
// descriptor can be, so many times.
func serveStalled(t *testing.T, clients, requests int) (s *stalledServer, data []byte) {
	t.Helper()
	const size = 1 << 20
	s = &stalledServer{lendingServer: serveLending(t, strconv.Itoa(size))}
	data = randomBytes(1, size)
	s.write(t, data, 0)
	for range clients {
		p := s.pipeline()
		for range requests {
			p.send(nbd.Request{Command: nbd.CmdRead, Length: size}, nil)
		}
		// The first reply has begun: its header has come.
		if _, err := p.r.Peek(1); err != nil {
			t.Fatal(err)
		}
		s.clients = append(s.clients, p)
	}
	return s, data
}

// takeReplies takes what the clients have asked for, and compares.
func (s *stalledServer) takeReplies(want []byte) {
	s.t.Helper()
	for _, p := range s.clients {
		for len(p.sent) > 0 {
			if got := p.next(); got.errno != 0 || !bytes.Equal(got.data, want) {
				s.t.Fatalf("a read that was under way: %v, right data: %v", got.errno, bytes.Equal(got.data, want))
			}
		}
	}
}
