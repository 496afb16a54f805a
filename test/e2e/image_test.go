// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A checking image says of each of its blocks what has to be in it, so that a
// copy can be checked without the original: a third of its chunks holds numbers
// that follow from the block's place, the rest are holes.
type checkingImage struct {
	size int64
	seed uint64
}

const (
	imageBlock = 4 << 10
	imageChunk = 64 << 10 // what holes are made of
)

// isData says whether the chunk at off, and so all of its blocks, holds data.
func (c checkingImage) isData(off int64) bool {
	chunk := uint64(off / imageChunk)
	return rand.New(rand.NewPCG(c.seed, chunk)).IntN(3) == 0
}

// block returns what has to be in the block at off.
func (c checkingImage) block(off int64) []byte {
	b := make([]byte, min(imageBlock, c.size-off))
	if !c.isData(off) {
		return b
	}
	numbers := rand.New(rand.NewPCG(^c.seed, uint64(off)))
	full := make([]byte, imageBlock)
	for i := 0; i < len(full); i += 8 {
		binary.LittleEndian.PutUint64(full[i:], numbers.Uint64())
	}
	copy(b, full)
	return b
}

// create writes the image to a new sparse file.
func (c checkingImage) create(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := f.Truncate(c.size); err != nil {
		t.Fatal(err)
	}
	for off := int64(0); off < c.size; off += imageBlock {
		if !c.isData(off) {
			continue
		}
		if _, err := f.WriteAt(c.block(off), off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil { // what is allocated is known only then
		t.Fatal(err)
	}
	return path
}

// check compares a copy with what has to be there, byte by byte. What follows
// the image has to be zeroes.
func (c checkingImage) check(t *testing.T, r io.Reader) {
	t.Helper()
	got := make([]byte, imageBlock)
	for off := int64(0); off < c.size; off += imageBlock {
		want := c.block(off)
		if _, err := io.ReadFull(r, got[:len(want)]); err != nil {
			t.Fatalf("the copy ends within the block at %d of %d bytes: %v", off, c.size, err)
		}
		if !bytes.Equal(got[:len(want)], want) {
			t.Fatalf("the copy differs in the block at %d of %d bytes, which is data: %v", off, c.size, c.isData(off))
		}
	}
	rest, err := io.ReadAll(r)
	if err != nil || len(bytes.Trim(rest, "\x00")) > 0 {
		t.Fatalf("the copy has %d bytes behind the image that are not zeroes (%v)", len(rest), err)
	}
}

// checkFile is check for a file, which has to have the image's size rounded up to
// a sector at most.
func (c checkingImage) checkFile(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	c.check(t, f)
}

// allocated is the space that a file takes, in bytes.
func allocated(t *testing.T, path string) int64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := f.Sync(); err != nil { // ext4 and others allocate late
		t.Fatal(err)
	}
	stat, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return stat.Sys().(*syscall.Stat_t).Blocks * 512
}

// sameSpace checks that a copy takes the space of the original, give or take a
// few blocks of the file system's own.
func sameSpace(t *testing.T, original, copied string) {
	t.Helper()
	const slack = 64 << 10
	want, got := allocated(t, original), allocated(t, copied)
	if got > want+slack || got < want-slack {
		t.Errorf("the copy takes %d bytes of space, the original %d", got, want)
	}
}

// zeroes reads as n zeroes.
func zeroes(n int64) io.Reader { return io.LimitReader(endless{}, n) }

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// randomBytes are always the same for a seed.
func randomBytes(seed uint64, n int) []byte {
	b := make([]byte, n)
	numbers := rand.New(rand.NewPCG(seed, 0))
	for i := range b {
		b[i] = byte(numbers.Uint32())
	}
	return b
}
