// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// pausable is a loop device that carries out nothing while it is paused: its bytes
// are a file on FUSE, and behind that is an nbdkit that can be told to stand still.
type pausable struct {
	t       *testing.T
	path    string
	control net.Conn

	socket string // nbdkit's URI
	detach func()
}

// newPausable makes one of 96 MiB whose bytes are those of pattern, none of them in
// the kernel's memory.
func newPausable(t *testing.T) *pausable {
	t.Helper()
	needs(t, "nbdkit", "nbdfuse", "fusermount3", "losetup")
	needsFUSE(t)
	control := filepath.Join(shortDir(t), "pause")
	d := &pausable{t: t}
	d.socket = nbdkit(t, "--filter=pause", "--filter=cow", "pattern", "96M", "pause-control="+control)
	var err error
	if d.control, err = net.Dial("unix", control); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.control.Close() })
	d.attach()
	return d
}

// attach makes the device. The kernel detaches it when nobody has it open any more.
func (d *pausable) attach() {
	t := d.t
	t.Helper()
	image, unmount := nbdfuse(t, d.socket)
	d.path = strings.TrimSpace(must(t, "losetup", "--find", "--show", image))
	holder, err := os.Open(d.path)
	must(t, "losetup", "--detach", d.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = holder.Close() })
	d.detach = func() {
		t.Helper()
		_ = holder.Close()
		unmount()
	}
}

// reattach makes the kernel forget what it knows of the bytes.
func (d *pausable) reattach() {
	d.t.Helper()
	d.detach()
	d.attach()
}

// pause lets no request that comes from now on be carried out until resume.
func (d *pausable) pause() {
	d.t.Helper()
	d.tell('p')
	d.t.Cleanup(func() { _, _ = d.control.Write([]byte{'r'}) }) // else nobody could end
}

func (d *pausable) resume() {
	d.t.Helper()
	d.tell('r')
}

// tell says one letter and waits for the answer, which is its capital.
func (d *pausable) tell(letter byte) {
	d.t.Helper()
	if err := d.control.SetDeadline(time.Now().Add(patience)); err != nil {
		d.t.Fatal(err)
	}
	answer := []byte{letter}
	if _, err := d.control.Write(answer); err != nil {
		d.t.Fatal(err)
	}
	if _, err := io.ReadFull(d.control, answer); err != nil || answer[0] != letter-'a'+'A' {
		d.t.Fatalf("nbdkit's pause filter says %q, %v", answer, err)
	}
}

// inFlight is how many reads the device has been given and has not done.
func (d *pausable) inFlight() int {
	d.t.Helper()
	text, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(d.path), "inflight"))
	if err != nil {
		d.t.Fatal(err)
	}
	reads, err := strconv.Atoi(strings.Fields(string(text))[0])
	if err != nil {
		d.t.Fatal(err)
	}
	return reads
}

// wantConcurrency makes reads that have to wait for the device, and others that do
// not. What is served has pattern's bytes, and the kernel knows none of them yet.
func (d *pausable) wantConcurrency(s *server) {
	t := d.t
	t.Helper()
	const mib, reads = 1 << 20, 32
	warm := pattern(0, 4096)
	p := s.pipeline()
	p.wantRead(0, warm)
	d.pause()
	slow := map[uint64][]byte{}
	for i := range reads {
		// Each at a place of its own, far from what others make the kernel
		// read ahead. One is long, and one begins with what is in memory.
		off, length := (i+1)*2*mib, 4096
		switch i {
		case 10:
			length = 512 << 10
		case 20:
			off, length = 0, mib+8192
		}
		slow[p.send(nbd.Request{Command: nbd.CmdRead, Offset: uint64(off), Length: uint32(length)}, nil)] = pattern(off, length)
	}
	eventually(t, fmt.Sprintf("the device has %d reads in flight", reads), func() bool { return d.inFlight() >= reads })

	p.wantRead(0, warm) // on the same connection, while those wait
	p.wantRead(512, warm[512:1024])
	s.pipeline().wantRead(0, warm)
	if n := d.inFlight(); n < reads {
		t.Errorf("only %d reads are in flight", n)
	}
	d.resume()
	for len(slow) > 0 {
		got := p.next()
		if got.errno != 0 || !bytes.Equal(got.data, slow[got.cookie]) {
			t.Fatalf("a read that had to wait: %v, right data: %v", got.errno, bytes.Equal(got.data, slow[got.cookie]))
		}
		delete(slow, got.cookie)
	}
	p.close()
}

// Reads that have to wait for the device are with it all at a time, and hold up
// nobody whose bytes are in memory, not even on their own connection.
func TestSlowReadsHoldUpNobody(t *testing.T) {
	t.Parallel()
	for _, lane := range blockdevBackend.lanes {
		t.Run("blockdev/"+lane, func(t *testing.T) {
			d := newPausable(t)
			d.wantConcurrency(serve(t, "--file", d.path, "--lane", lane))
		})
	}
	t.Run("ext4", func(t *testing.T) {
		needs(t, "mkfs.ext4", "mount", "umount")
		d := newPausable(t)
		must(t, "mkfs.ext4", "-q", "-F", "-E", "nodiscard", "-O", "^has_journal", d.path)
		dir, umount := d.mount()
		writePattern(t, filepath.Join(dir, "disk"), 72<<20)
		umount()
		d.reattach()
		dir, _ = d.mount()
		d.wantConcurrency(serve(t, "--file", filepath.Join(dir, "disk")))
	})
}

// mount mounts the file system on the device.
func (d *pausable) mount() (dir string, umount func()) {
	d.t.Helper()
	dir = mountAt(d.t, d.path)
	return dir, func() {
		d.t.Helper()
		must(d.t, "umount", dir)
	}
}

// writePattern makes a file with pattern's bytes.
func writePattern(t *testing.T, path string, size int) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	const piece = 1 << 20 // the tests' own memory is seen by tests that measure memory
	for off := 0; off < size; off += piece {
		if _, err := f.Write(pattern(off, piece)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
