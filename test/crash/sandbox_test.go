// SPDX-License-Identifier: GPL-3.0-or-later

package crash

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/flexnbd/flexnbd/core/control"
	"github.com/flexnbd/flexnbd/core/sandbox"
	"github.com/flexnbd/flexnbd/core/sandbox/sandboxtest"
)

// Somebody has taken over the server, which serves, or waits, in its sandbox. The
// program with failpoints can be told to try what that somebody would.
func TestCompromisedServer(t *testing.T) {
	sandboxtest.Need(t, sandbox.Found().Landlock, sandbox.Found().Seccomp)
	for _, verb := range []string{"serve", "listen"} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			own, other := filepath.Join(dir, "own"), filepath.Join(dir, "other")
			if err := os.Mkdir(other, 0o700); err != nil {
				t.Fatal(err)
			}
			m := newMachine(t, "server", own, "127.0.0.1:0")
			for _, path := range []string{m.image, filepath.Join(other, "image")} {
				if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			m.start(verb, nil)
			server, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			const denied, refused = "permission denied", "operation not permitted"
			for _, a := range [][3]string{
				{"read", other + "/image", denied},
				{"create", other + "/new", denied},
				{"remove", other + "/image", denied},
				{"list", other, denied},
				{"list", "/", denied},
				{"read", "/etc/shadow", denied},
				{"create", "/tmp/flexnbd-hostile", denied},
				{"mkdir", own + "/new", denied},
				{"chmod", m.image, refused},
				{"start", "/bin/true", denied}, // already to look at the program is
				{"exec", "/bin/true", refused},
				{"ptrace", strconv.Itoa(os.Getpid()), refused},
				{"mount", own, refused},
				{"connect", server.Addr().String(), refused},
				{"listen", "127.0.0.1:0", refused},
				// What it has to do, for the records of a migration.
				{"create", own + "/image.MIGRATED.new", sandboxtest.Done},
				{"remove", own + "/image.MIGRATED.new", sandboxtest.Done},
			} {
				answer, err := control.Call(t.Context(), m.sock, "attempt", a[0], a[1])
				if err != nil {
					t.Fatal(err)
				}
				if answer.Text != a[2] {
					t.Errorf("%s %s: %s, want %s", a[0], a[1], strings.TrimSpace(answer.Text), a[2])
				}
			}
		})
	}
}
