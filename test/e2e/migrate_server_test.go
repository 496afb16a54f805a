// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/core/control"
)

// listen starts `flexnbd listen` as serve starts `flexnbd serve`.
func listen(t *testing.T, arguments ...string) *server {
	t.Helper()
	return listenIn(t, surroundings{}, arguments...)
}

// listenIn is listen in other surroundings.
func listenIn(t *testing.T, in surroundings, arguments ...string) *server {
	t.Helper()
	s := start(t, in, "listen", arguments...)
	s.waitReady()
	return s
}

// atPort is a server at an address that is known before it starts.
func atPort(addr, port string) surroundings { return surroundings{addr: addr, port: port} }

// portOf is the port of a TCP address.
func portOf(t *testing.T, addr string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// mirrorTo is the command line of `flexnbd mirror` to an address.
func (s *server) mirrorTo(addr string, arguments ...string) []string {
	s.t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		s.t.Fatal(err)
	}
	return append([]string{"mirror", "--sock", s.sock, "--addr", host, "--port", port}, arguments...)
}

// mirror starts a migration, which has to start.
func (s *server) mirror(addr string, arguments ...string) {
	s.t.Helper()
	if got := must(s.t, programs.flexnbd, s.mirrorTo(addr, arguments...)...); got != "Migration started\n" {
		s.t.Fatalf("mirror printed %q", got)
	}
}

// refusesMirror tries to start a migration, which must not start, for a reason that
// begins with these words.
func (s *server) refusesMirror(words, addr string, arguments ...string) {
	s.t.Helper()
	r := run(s.t, nil, programs.flexnbd, s.mirrorTo(addr, arguments...)...)
	if r.status != 1 || !strings.HasPrefix(r.stderr, words) || r.stdout != "" {
		s.t.Errorf("mirror to %s: exit status %d, it says %q%q, want %q", addr, r.status, r.stdout, r.stderr, words)
	}
	if state := s.state(); state["is_mirroring"] != "false" || state["has_control"] != "true" {
		s.t.Errorf("after a migration that did not start the status is %v", state)
	}
}

// look is state for a server that may be about to end.
func (s *server) look() (state map[string]string, answers bool) {
	s.t.Helper()
	answer, err := control.Call(s.t.Context(), s.sock, "status")
	if err != nil || answer.Code != 0 {
		return nil, false
	}
	return s.noted(answer.Text + "\n"), true
}

// reaches waits until the status says key=value for one of the values.
func (s *server) reaches(key string, values ...string) {
	s.t.Helper()
	var state map[string]string
	if !soon(func() bool {
		state, _ = s.look()
		return slices.Contains(values, state[key])
	}) {
		s.t.Fatalf("the status never says %s=%v: %v\n%s", key, values, state, s.log.String())
	}
}

// copies waits until the migration has sent n bytes.
func (s *server) copies(n int) {
	s.t.Helper()
	eventually(s.t, "the migration copies", func() bool {
		sent, copying := s.state()["migration_bytes_sent"]
		return copying && number(s.t, sent) >= n
	})
}

// fails waits until an attempt to migrate has failed for a reason with these words,
// without an end of the migration.
func (s *server) fails(words string) {
	s.t.Helper()
	var state map[string]string
	if !soon(func() bool {
		state = s.state()
		return strings.Contains(state["migration_error"], strings.ReplaceAll(words, " ", "%20"))
	}) {
		s.t.Fatalf("no attempt fails with %q; the status is %v\n%s", words, state, s.log.String())
	}
	if state["is_mirroring"] != "true" || state["has_control"] != "true" {
		s.t.Fatalf("after an attempt that failed the status is %v", state)
	}
}

// hurry takes the cap off a migration that a test has made slow, so that it does not
// end before the test has looked at it.
func (s *server) hurry() {
	s.t.Helper()
	must(s.t, programs.flexnbd, "mirror-speed", "--sock", s.sock, "--max-speed", "0")
}

// attempts is how often the migration was tried.
func (s *server) attempts() int {
	s.t.Helper()
	return number(s.t, s.state()["migration_attempt"])
}

// triesAgain waits until the migration is tried once more than n times.
func (s *server) triesAgain(n int) {
	s.t.Helper()
	eventually(s.t, "the migration is tried again", func() bool { return s.attempts() > n })
}

// departs waits for the end of a source that has given its disk away.
func (s *server) departs() {
	s.t.Helper()
	s.endedWith(0)
}

// arrives waits until the server serves a disk that was migrated to it, and notes
// where.
func (s *server) arrives() {
	s.t.Helper()
	s.reaches("clients_allowed", "true")
	state := s.state()
	if state["has_control"] != "true" || state["is_mirroring"] != "false" {
		s.t.Errorf("the status of a server whose disk has arrived is %v", state)
	}
	s.addr = state["address"]
}

// kill ends a server as a crash would.
func (s *server) kill() {
	s.t.Helper()
	s.signal(syscall.SIGKILL)
	<-s.exited
	s.pluginsEnd()
}

// suspend stops the server's process until the function that it returns is called.
// Plugins go on.
func (s *server) suspend() (resume func()) {
	s.t.Helper()
	s.signal(syscall.SIGSTOP)
	eventually(s.t, "the server is stopped", func() bool {
		stat, err := os.ReadFile(filepath.Join("/proc", itoa(s.cmd.Process.Pid), "stat"))
		if err != nil {
			s.t.Fatal(err)
		}
		_, rest, _ := bytes.Cut(stat, []byte(") "))
		return bytes.HasPrefix(rest, []byte("T"))
	})
	return func() { s.signal(syscall.SIGCONT) }
}

// records are the ends of the names of the records beside an image.
func records(t *testing.T, image string) []string {
	t.Helper()
	found, err := filepath.Glob(image + ".*")
	if err != nil {
		t.Fatal(err)
	}
	ends := []string{}
	for _, path := range found {
		ends = append(ends, strings.TrimPrefix(path, image+"."))
	}
	return ends
}

// wantRecords checks which records there are beside an image.
func wantRecords(t *testing.T, image string, want ...string) {
	t.Helper()
	if got := records(t, image); !slices.Equal(got, append([]string{}, want...)) {
		t.Errorf("beside %s there are the records %q, want %q", image, got, want)
	}
}

// wantSame checks that two files have the same content.
func wantSame(t *testing.T, one, other string) {
	t.Helper()
	a, err := os.ReadFile(one)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Errorf("%s (%d bytes) and %s (%d bytes) are not the same", one, len(a), other, len(b))
	}
}

// dataFile makes a file full of random bytes.
func dataFile(t *testing.T, size int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(path, fastBytes(uint64(size), size), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// silentLog checks that a server where nothing went wrong had nothing to say.
func (s *server) silentLog() {
	s.t.Helper()
	if text := s.log.String(); text != "" {
		s.t.Errorf("a server where nothing went wrong has something to say:\n%s", text)
	}
}

// within bounds what takes a context.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// exists says whether there is such a file.
func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}
