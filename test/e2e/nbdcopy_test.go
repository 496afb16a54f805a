// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The size is no multiple of anything.
var copied = checkingImage{size: 20<<20 + 777, seed: 1}

func TestNbdcopyThereAndBack(t *testing.T) {
	t.Parallel()
	needs(t, "nbdcopy")
	original := copied.create(t)
	onEachBackend(t, func(t *testing.T, b setting) {
		s := b.serve(t, copied.size)
		must(t, "nbdcopy", original, s.uri())
		back := filepath.Join(t.TempDir(), "back")
		must(t, "nbdcopy", s.uri(), back)
		copied.checkFile(t, back)
		sameSpace(t, original, back)
	})
}

func TestNbdcopyIntoAFileKeepsItSparse(t *testing.T) {
	t.Parallel()
	needs(t, "nbdcopy")
	original := copied.create(t)
	onEachLane(t, func(t *testing.T, lane string) {
		disk := sparseFile(t, copied.size)
		s := serve(t, "--file", disk, "--lane", lane)
		must(t, "nbdcopy", "--flush", original, s.uri())
		copied.checkFile(t, disk)
		sameSpace(t, original, disk)
	})
}

func TestNbdcopyWithManyRequestsInOneDirection(t *testing.T) {
	t.Parallel()
	needs(t, "nbdcopy")
	original := copied.create(t)
	onEachBackendOnce(t, func(t *testing.T, b setting) {
		s := b.serve(t, copied.size)
		must(t, "nbdcopy", "--requests=64", "--request-size=65536", original, s.uri())
		must(t, "nbdcopy", "--requests=64", "--request-size=4096", "--no-extents", s.uri(), "null:")
		copied.checkServed(t, s)
	})
}

// Several connections share the work, which takes MULTI_CONN: what one of them has
// written the others read, and one flush is for all. (A thread has one.)
func TestNbdcopyOnSeveralConnections(t *testing.T) {
	t.Parallel()
	needs(t, "nbdcopy")
	original := copied.create(t)
	onEachBackend(t, func(t *testing.T, b setting) {
		s := b.serve(t, copied.size, "--verbose")
		must(t, "nbdcopy", "--connections=4", "--threads=4", "--flush", original, s.uri())
		connected := strings.Count(s.log.String(), ": connected ")
		if connected < 4 {
			t.Errorf("nbdcopy has made %d connections, not 4", connected)
		}
		back := filepath.Join(t.TempDir(), "back")
		must(t, "nbdcopy", "--connections=4", "--threads=4", s.uri(), back)
		if n := strings.Count(s.log.String(), ": connected "); n < connected+4 {
			t.Errorf("nbdcopy has made %d connections to read, not 4", n-connected)
		}
		copied.checkFile(t, back)
	})
}

// checkServed is check for what a server serves, read as a stream.
func (c checkingImage) checkServed(t *testing.T, s *server) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "nbdcopy", s.uri(), "-")
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.check(t, pipe)
	_, _ = io.Copy(io.Discard, pipe)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
}
