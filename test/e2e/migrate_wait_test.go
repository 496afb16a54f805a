// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"io"
	"net"
	"strings"
	"testing"

	"github.com/flexnbd/flexnbd/core/control"
)

// A disk that is gone at once, and its server with it, does not escape --wait: order and
// wait are one request.
func TestMirrorWaitOfATinyDisk(t *testing.T) {
	t.Parallel()
	for range 3 {
		data, copied := dataFile(t, 4096), sparseFile(t, 4096)
		source := serve(t, "--file", data)
		destination := listen(t, "--file", copied)
		r := run(t, nil, programs.flexnbd, source.mirrorTo(destination.addr, "--wait")...)
		if r.status != 0 || !strings.HasPrefix(r.stdout, "Migration started\nmigrated: ") {
			t.Errorf("mirror --wait: exit status %d, it says %q%q", r.status, r.stdout, r.stderr)
		}
		source.departs()
		destination.arrives()
		wantSame(t, data, copied)
	}
}

func TestMirrorWaitSaysWhyNothingWasStarted(t *testing.T) {
	t.Parallel()
	source := serve(t, "--file", dataFile(t, 1<<20))
	r := run(t, nil, programs.flexnbd, source.mirrorTo("127.0.0.1:1", "--wait")...)
	if r.status != 1 || r.stdout != "" || !strings.Contains(r.stderr, "refused") {
		t.Errorf("mirror --wait to nobody: exit status %d, it says %q%q", r.status, r.stdout, r.stderr)
	}
}

// Whether the destination confirms is told by what it is, and not by the option.
func TestMirrorWaitSaysWhoDoesNotConfirm(t *testing.T) {
	t.Parallel()
	needs(t, "nbdkit")
	const words = "cannot confirm that it has the disk"
	for name, destination := range map[string]struct {
		addr   string
		option []string
		said   bool
	}{
		"flexnbd":        {listen(t, "--file", sparseFile(t, 64<<10)).addr, []string{"--unconfirmed"}, false},
		"another server": {nbdkitTCP(t, "memory", "64K"), []string{"--unconfirmed"}, true},
		"flexnbd 0.x":    {newElder(t, 64<<10, 0).addr, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			source := serve(t, "--file", dataFile(t, 64<<10))
			r := run(t, nil, programs.flexnbd, source.mirrorTo(destination.addr, append(destination.option, "--wait")...)...)
			if r.status != 0 || strings.Contains(r.stdout, words) != destination.said {
				t.Errorf("mirror --wait: exit status %d, it says %q%q", r.status, r.stdout, r.stderr)
			}
			source.departs()
		})
	}
}

// Clients that wait and go leave their places to others.
func TestMirrorWaitEndsWithItsClient(t *testing.T) {
	t.Parallel()
	data, copied := dataFile(t, 16<<20), sparseFile(t, 16<<20)
	source := serve(t, "--file", data)
	destination := listen(t, "--file", copied)
	source.mirror(destination.addr, "--max-speed", "100K")
	const places = 64
	var waiting []net.Conn
	for range places {
		conn, err := net.Dial("unix", source.sock)
		if err != nil {
			t.Fatal(err)
		}
		waiting = append(waiting, conn)
		if _, err := io.WriteString(conn, "mirror_wait\n\n"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "every place is taken", func() bool {
		answer, err := control.Call(t.Context(), source.sock, "status")
		return err == nil && strings.HasPrefix(answer.Text, "too many")
	})
	for _, conn := range waiting {
		_ = conn.Close()
	}
	eventually(t, "there are places again", func() bool { _, ok := source.look(); return ok })
	source.breaks(0, "mirror stopped")
}
