// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// What goes wrong on a disk is the same for clients and in the log, however the data
// gets there.

func TestReadOnlyDiskRefusesChanges(t *testing.T) {
	t.Parallel()
	onEachBackend(t, func(t *testing.T, b setting) {
		s := b.serve(t, 1<<20, "--read-only")
		p := s.pipeline()
		for _, request := range []nbd.Request{
			{Command: nbd.CmdWrite, Length: 4096},
			{Command: nbd.CmdWrite, Length: 4096, Flags: nbd.CmdFlagFUA},
			{Command: nbd.CmdTrim, Length: 4096},
			{Command: nbd.CmdWriteZeroes, Length: 4096},
		} {
			var payload []byte
			if request.Command == nbd.CmdWrite {
				payload = make([]byte, 4096)
			}
			p.want(nbd.EPERM, request, payload)
		}
		p.wantRead(0, make([]byte, 64<<10))
		p.want(0, nbd.Request{Command: nbd.CmdFlush}, nil)
	})
}

// A full file system is no reason to end: clients are told which request it was, and
// go on with the rest.
func TestFullFileSystem(t *testing.T) {
	t.Parallel()
	needsRoot(t, "mount a file system")
	needs(t, "mount", "umount", "mkfs.ext4")
	const size, space = 64 << 20, 16 << 20
	for name, mounted := range map[string]func(t *testing.T) string{
		"tmpfs": func(t *testing.T) string {
			return mountAt(t, "-t", "tmpfs", "-o", "size=16M", "none")
		},
		"ext4": func(t *testing.T) string {
			image := sparseFile(t, space)
			must(t, "mkfs.ext4", "-q", "-F", "-O", "^has_journal", image)
			return mountAt(t, "-o", "loop", image)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := mounted(t)
			onEachLane(t, func(t *testing.T, lane string) {
				disk := filepath.Join(dir, lane)
				if err := os.WriteFile(disk, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				defer func() { _ = os.Remove(disk) }() // the next one needs the space
				if err := os.Truncate(disk, size); err != nil {
					t.Fatal(err)
				}
				s := serve(t, "--file", disk, "--lane", lane)
				s.wantLane(lane)
				s.fillUp(disk, size)
				s.stop(syscall.SIGTERM) // before its disk is removed
			})
		})
	}
}

// fillUp writes until the file system is full, and looks at what follows.
func (s *server) fillUp(disk string, size uint64) {
	t := s.t
	t.Helper()
	const step = 1 << 20
	p, data := s.pipeline(), randomBytes(1, step)
	write := func(off uint64) nbd.Errno {
		p.send(nbd.Request{Command: nbd.CmdWrite, Offset: off, Length: step}, data)
		return p.next().errno
	}
	off := uint64(0)
	for ; off < size; off += step {
		if errno := write(off); errno == nbd.ENOSPC {
			break
		} else if errno != 0 {
			t.Fatalf("write at %d: %v, want success or ENOSPC", off, errno)
		}
	}
	if off < 2*step || off == size {
		t.Fatalf("the file system is full after %d bytes", off)
	}
	p.want(nbd.ENOSPC, nbd.Request{Command: nbd.CmdWrite, Offset: size - step, Length: step, Flags: nbd.CmdFlagFUA}, data)
	p.wantRead(0, data)
	p.wantWrite(0, data) // has its space
	s.wantLog(`error="backend file: image ` + regexp.QuoteMeta(disk) + `: writing 1048576 bytes at \d+: no space left on device"`)

	p.want(0, nbd.Request{Command: nbd.CmdTrim, Offset: 0, Length: step}, nil)
	if errno := write(off); errno != 0 {
		t.Errorf("write after another part was trimmed: %v", errno)
	}
	p.wantRead(off, data)
	p.want(0, nbd.Request{Command: nbd.CmdFlush}, nil)
	p.close()
}

// wantLog waits until a line of the log matches.
func (s *server) wantLog(expression string) {
	s.t.Helper()
	line := regexp.MustCompile(expression)
	if !soon(func() bool { return line.MatchString(s.log.String()) }) {
		s.t.Errorf("no line of the log is like %q:\n%s", expression, s.log.String())
	}
}

// Who makes the image shorter than the disk gets errors for what is gone, and nothing
// else happens.
func TestTruncatedImageFailsWhereItIsGone(t *testing.T) {
	t.Parallel()
	const size, left = 1 << 20, 512<<10 + 100
	onEachLane(t, func(t *testing.T, lane string) {
		disk := sparseFile(t, size)
		s := serve(t, "--file", disk, "--lane", lane)
		s.wantLane(lane)
		data := randomBytes(1, size)
		s.write(t, data, 0)
		p := s.pipeline()
		p.wantRead(size-64<<10, data[size-64<<10:])
		if err := os.Truncate(disk, left); err != nil {
			t.Fatal(err)
		}
		for _, gone := range []struct{ off, length int64 }{
			{size - 4096, 4096}, {size - 256<<10, 256 << 10}, {left - 10, 4096}, {left - 100<<10, 200 << 10}, {0, size},
		} {
			p.want(nbd.EIO, nbd.Request{Command: nbd.CmdRead, Offset: uint64(gone.off), Length: uint32(gone.length)}, nil)
		}
		p.wantRead(0, data[:4096])
		p.wantRead(left-256<<10, data[left-256<<10:left])
		s.wantLog(`error="backend file: image ` + regexp.QuoteMeta(disk) + ` has no byte 1044480: something has shrunk it .*: input/output error"`)
		if state := s.state(); state["backend_state"] != "serving" || state["backend_restarts"] != "0" {
			t.Errorf("status: %v", state)
		}
		p.wantWrite(size-4096, data[:4096]) // which makes it as long again
		p.wantRead(size-4096, data[:4096])
	})
}

// A file system that cannot read says so; when it can again, so can clients.
func TestReadErrorOfTheFileSystem(t *testing.T) {
	t.Parallel()
	needs(t, "nbdfuse", "nbdkit", "fusermount3")
	needsFUSE(t)
	onEachLane(t, func(t *testing.T, lane string) {
		broken := filepath.Join(t.TempDir(), "broken")
		disk, detach := nbdfuse(t, "[", "nbdkit", "--exit-with-parent", "--filter=error", "pattern", "16M",
			"error-pread=EIO", "error-pread-rate=100%", "error-file="+broken, "]")
		t.Run("served", func(t *testing.T) {
			s := serve(t, "--file", disk, "--lane", lane, "--read-only")
			s.wantLane(lane)
			p := s.pipeline()
			p.wantRead(1<<20, pattern(1<<20, 4096))
			if err := os.WriteFile(broken, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			for _, length := range []uint32{4096, 256 << 10} {
				p.want(nbd.EIO, nbd.Request{Command: nbd.CmdRead, Offset: 8 << 20, Length: length}, nil)
			}
			s.wantLog(`error="backend file: image ` + regexp.QuoteMeta(disk) + `: reading 4096 bytes at 8388608: input/output error"`)
			if err := os.Remove(broken); err != nil {
				t.Fatal(err)
			}
			p.wantRead(8<<20, pattern(8<<20, 256<<10))
			p.close()
		})
		detach()
	})
}

// pattern is what nbdkit's pattern plugin has at an offset: each 8 bytes are their
// own offset.
func pattern(off, n int) []byte {
	b := make([]byte, 0, n)
	for at := off; at < off+n; at += 8 {
		b = binary.BigEndian.AppendUint64(b, uint64(at))
	}
	return b
}

// A stock backend as a binary of its own lends as well.
func TestSeparatePluginLends(t *testing.T) {
	s := serve(t, "--plugin-dir", programs.plugins, "--file", sparseFile(t, 4096))
	s.wantLane(laneFile)
}
