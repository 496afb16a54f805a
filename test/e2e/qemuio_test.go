// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"os"
	"strings"
	"testing"
)

// qemuIO runs qemu-io commands in one session. It exits with status 0 also when
// a pattern differs, so its words are looked at.
func qemuIO(t *testing.T, s *server, commands ...string) string {
	t.Helper()
	args := []string{"-f", "raw", "-d", "unmap"}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	text := must(t, "qemu-io", append(args, s.uri())...)
	for _, bad := range []string{"failed", "Error", "error"} {
		if strings.Contains(text, bad) {
			t.Fatalf("qemu-io %q:\n%s", commands, text)
		}
	}
	return text
}

func TestQemuIOPatterns(t *testing.T) {
	t.Parallel()
	needs(t, "qemu-io")
	onEachBackend(t, func(t *testing.T, b setting) {
		s := b.serve(t, 16<<20)
		qemuIO(t, s,
			"write -P 0xa5 0 1M",
			"write -f -P 0x5a 1M 64k", // FUA
			"flush",
			"read -P 0xa5 0 1M", "read -P 0x5a 1M 64k", "read -P 0 1088k 1M",
			"discard 256k 256k",
			"read -P 0xa5 0 256k", "read -P 0xa5 512k 512k",
			"write -z 512k 128k", "read -P 0 512k 128k", // NO_HOLE
			"write -zu 640k 128k", "read -P 0 640k 128k",
			"read -P 0xa5 768k 256k",
			"aio_write -P 1 2M 4k", "aio_write -P 2 2052k 4k", "aio_write -P 3 2056k 4k", "aio_flush",
			"read -P 1 2M 4k", "read -P 2 2052k 4k", "read -P 3 2056k 4k",
		)
		qemuIO(t, s, "read -P 0xa5 768k 256k", "read -P 0x5a 1M 64k", "read -P 3 2056k 4k") // a new connection
	})
}

func TestMisalignedRequestsTouchNothingElse(t *testing.T) {
	t.Parallel()
	needs(t, "qemu-io")
	onEachBackend(t, func(t *testing.T, b setting) {
		s := b.serve(t, 1<<20)
		qemuIO(t, s,
			"write -P 0x11 0 64k",
			"write -P 0x22 4095 2", "write -P 0x33 8191 4098",
			"read -P 0x11 0 4095", "read -P 0x22 4095 2", "read -P 0x11 4097 4094",
			"read -P 0x33 8191 4098", "read -P 0x11 12289 1000",
			"write -z 20001 10003", "read -P 0x11 20000 1", "read -P 0 20001 10003", "read -P 0x11 30004 1",
			"write -zu 40001 10003", "read -P 0x11 40000 1", "read -P 0 40001 10003", "read -P 0x11 50004 1",
			"read -P 0x11 60000 5536",
		)
	})
}

// What clients ask for is done on the file: space is given back, or kept where
// the client says so.
func TestTrimAndZeroFreeSpace(t *testing.T) {
	t.Parallel()
	needs(t, "qemu-io")
	const mib = 1 << 20
	data := randomBytes(1, 8*mib)
	for name, test := range map[string]struct {
		command string
		keeps   bool
	}{
		"TRIM":                     {"discard 1M 6M", false},
		"WRITE_ZEROES":             {"write -zu 1M 6M", false},
		"WRITE_ZEROES and NO_HOLE": {"write -z 1M 6M", true},
	} {
		t.Run(name, func(t *testing.T) {
			onEachLane(t, func(t *testing.T, lane string) {
				disk := sparseFile(t, 8*mib)
				if err := os.WriteFile(disk, data, 0o600); err != nil {
					t.Fatal(err)
				}
				s := serve(t, "--file", disk, "--lane", lane)
				before := allocated(t, disk)
				qemuIO(t, s, test.command, "flush", "read -P 0 1M 6M")
				after := allocated(t, disk)
				switch {
				case test.keeps && after < before:
					t.Errorf("%s: %d bytes of space became %d, though the client wants to keep it", test.command, before, after)
				case !test.keeps && after > before-6*mib:
					t.Errorf("%s: %d bytes of space became %d, 6 MiB less are due", test.command, before, after)
				}
			})
		})
	}
}
