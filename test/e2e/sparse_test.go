// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"os"
	"path/filepath"
	"testing"
)

// zeroMapReady waits until the server knows the holes that its disk began with.
func (s *server) zeroMapReady() {
	s.t.Helper()
	eventually(s.t, "the zero map is built", func() bool { return s.status()["zero_map"] == "ready" })
}

func TestZeroesWrittenToAHoleAllocateNothing(t *testing.T) {
	t.Parallel()
	const size = 8<<20 + 100
	for name, write := range map[string]func(t *testing.T, s *server){
		"flexnbd write": func(t *testing.T, s *server) {
			mustFeed(t, zeroes(size), programs.flexnbd, s.command("write", 0, size)...)
		},
		"flexnbd write, misaligned": func(t *testing.T, s *server) {
			mustFeed(t, zeroes(size-4097), programs.flexnbd, s.command("write", 4097, size-4097)...)
		},
		"nbdcopy": func(t *testing.T, s *server) {
			needs(t, "nbdcopy")
			file := filepath.Join(t.TempDir(), "zeroes") // with space, so that they are really sent
			if err := os.WriteFile(file, make([]byte, size), 0o600); err != nil {
				t.Fatal(err)
			}
			must(t, "nbdcopy", "--allocated", "--sparse=0", "--flush", file, s.uri())
		},
		"fio": func(t *testing.T, s *server) {
			needsFio(t)
			jobs := fio(t, s, "--rw=randwrite", "--bs=4k", "--size=8M", "--iodepth=32", "--zero_buffers", "--end_fsync=1")
			if jobs[0].Write.Bytes != 8<<20 {
				t.Errorf("fio wrote %d bytes", jobs[0].Write.Bytes)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			onEachLane(t, func(t *testing.T, lane string) {
				disk := sparseFile(t, size)
				s := serve(t, "--file", disk, "--lane", lane)
				s.zeroMapReady()
				before := allocated(t, disk)
				write(t, s)
				if after := allocated(t, disk); after != before {
					t.Errorf("zeroes written to a hole took %d bytes of space", after-before)
				}
			})
		})
	}
}

// Zeroes are not left out where something else was.
func TestZeroesWrittenOverDataAreRead(t *testing.T) {
	t.Parallel()
	onEachBackend(t, func(t *testing.T, b setting) {
		const size = 1 << 20
		s := b.serve(t, size)
		s.zeroMapReady()
		s.write(t, randomBytes(1, size), 0)
		s.write(t, make([]byte, size/2), size/4)
		want := randomBytes(1, size)
		clear(want[size/4 : size/4+size/2])
		if got := s.read(t, 0, size); string(got) != string(want) {
			t.Error("read is not what was written")
		}
	})
}

// What is written survives the server: the file itself has it.
func TestAcknowledgedDataIsInTheFile(t *testing.T) {
	const size = 1<<20 + 11
	want := randomBytes(2, size)
	onEachLane(t, func(t *testing.T, lane string) {
		disk := sparseFile(t, size)
		s := serve(t, "--file", disk, "--lane", lane)
		s.write(t, want, 0)
		got, err := os.ReadFile(disk)
		if err != nil || string(got) != string(want) {
			t.Errorf("the file does not have what was written (%v)", err)
		}
	})
}
