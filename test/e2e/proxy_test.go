// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestNbdClientListsTheExport(t *testing.T) {
	t.Parallel()
	needs(t, "nbd-client")
	onEachBackend(t, func(t *testing.T, b setting) {
		s := b.serve(t, 1<<20)
		where := []string{"-unix", s.addr}
		if b.network == "tcp" {
			host, port, _ := net.SplitHostPort(s.addr)
			where = []string{host, port}
		}
		// It lists one export, whose name is empty.
		if got := must(t, "nbd-client", append([]string{"-l"}, where...)...); got != "Negotiation: ..\n\n" {
			t.Errorf("nbd-client -l printed %q", got)
		}
	})
}

// nbdkit runs nbdkit until the test ends, and returns the URI at which it serves.
func nbdkit(t *testing.T, arguments ...string) string {
	t.Helper()
	socket := filepath.Join(shortDir(t), "nbdkit")
	var said output
	cmd := exec.Command("nbdkit", append([]string{"--foreground", "--unix", socket}, arguments...)...)
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("nbdkit said: %s", said.String())
		}
	})
	eventually(t, "nbdkit serves", func() bool {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	})
	return "nbd+unix:///?socket=" + socket
}

// nbdkit stands between a client and the server, as a client of the server that
// asks for everything.
func TestNbdkitAsAProxy(t *testing.T) {
	t.Parallel()
	needs(t, "nbdkit", "nbdcopy", "qemu-io", "nbdinfo")
	original := copied.create(t)
	onEachBackend(t, func(t *testing.T, b setting) {
		s := b.serve(t, copied.size)
		proxy := nbdkit(t, "nbd", s.uri())
		must(t, "nbdcopy", "--flush", original, proxy)
		back := filepath.Join(t.TempDir(), "back")
		must(t, "nbdcopy", proxy, back)
		copied.checkFile(t, back)
		sameSpace(t, original, back)
		copied.checkServed(t, s) // the proxy has kept nothing for itself

		info := must(t, "nbdinfo", proxy)
		for _, want := range []string{"is_read_only: false", "can_flush: true", "can_fua: true", "can_trim: true", "can_zero: true",
			"can_multi_conn: true", "can_cache: true", "can_fast_zero: true"} {
			if !strings.Contains(info, want) {
				t.Errorf("through the proxy nbdinfo does not say %q:\n%s", want, info)
			}
		}
		text := must(t, "qemu-io", "-f", "raw", "-d", "unmap", proxy, "-c", "write -f -P 0xa5 0 1M", "-c", "discard 256k 256k",
			"-c", "write -z 512k 128k", "-c", "flush", "-c", "read -P 0xa5 0 256k", "-c", "read -P 0 512k 128k", "-c", "read -P 0xa5 640k 384k")
		if strings.Contains(text, "failed") || strings.Contains(strings.ToLower(text), "error") {
			t.Errorf("qemu-io: %s", text)
		}
	})
}
