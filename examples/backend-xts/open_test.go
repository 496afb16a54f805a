// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/store"
)

func TestReopenedDiskReadsBack(t *testing.T) {
	d := newDisk(t, t.TempDir(), 1<<20)
	want := randomBytes(1 << 20)
	d.with(t, func(s store.Store) { write(t, s, 0, want) })
	d.with(t, func(s store.Store) { wantBytes(t, s, 0, want) })
	d.ReadOnly = true
	d.with(t, func(s store.Store) { wantBytes(t, s, 0, want) })
}

func TestHeaderIsWrittenOnceAndKeepsTheRestAHole(t *testing.T) {
	d := newDisk(t, t.TempDir(), 64<<20)
	d.format(t)
	first := d.raw(t)
	if string(first[:len(magic)]) != magic {
		t.Fatal("the first opening wrote no header")
	}
	if space := d.allocated(t); space > 64<<10 {
		t.Errorf("a new image takes %d bytes", space)
	}
	d.format(t)
	if !bytes.Equal(d.raw(t), first) {
		t.Error("the second opening changed the image")
	}
}

func TestImagesWithOneKeyFileHaveNothingInCommon(t *testing.T) {
	a, b := newDisk(t, t.TempDir(), sectorSize), newDisk(t, t.TempDir(), sectorSize)
	b.Options = a.Options
	for _, d := range []*testDisk{a, b} {
		d.with(t, func(s store.Store) { write(t, s, 0, make([]byte, sectorSize)) })
	}
	rawA, rawB := a.raw(t), b.raw(t)
	if bytes.Equal(rawA[saltAt:checkAt], rawB[saltAt:checkAt]) {
		t.Error("two images have one salt")
	}
	if bytes.Equal(rawA[headerSize:], rawB[headerSize:]) {
		t.Error("equal plaintext is equal ciphertext in two images")
	}
}

func TestWrongKeyIsRefused(t *testing.T) {
	d := newDisk(t, t.TempDir(), 1<<20)
	want := randomBytes(sectorSize)
	d.with(t, func(s store.Store) { write(t, s, 0, want) })
	right := d.Options
	other := newDisk(t, t.TempDir(), 0)
	d.Options = other.Options
	d.refused(t, store.ErrInvalid, d.Location, other.key, "another key", "nothing was changed")
	d.Options = right
	d.with(t, func(s store.Store) { wantBytes(t, s, 0, want) })
}

func TestImageWithDataAndNoHeaderIsLeftAlone(t *testing.T) {
	for _, readOnly := range []bool{false, true} {
		for off, word := range map[int64]string{
			0:                                 "plain disk",
			headerSize - 1:                    "plain disk",
			headerSize:                        "not empty",
			headerSize + 1<<20 - 1:            "not empty",
			headerSize + 1<<19 - sectorSize/2: "not empty",
		} {
			d := newDisk(t, t.TempDir(), 1<<20)
			d.patch(t, []byte("precious"[:1]), off)
			d.ReadOnly = readOnly
			d.refused(t, store.ErrInvalid, d.Location, "has no header", "left as it is", word)
		}
	}
}

// Zeroes that somebody wrote may be meant.
func TestImageOfWrittenZeroesIsLeftAlone(t *testing.T) {
	d := newDisk(t, t.TempDir(), 1<<20)
	d.patch(t, make([]byte, sectorSize), headerSize)
	d.refused(t, store.ErrInvalid, d.Location, "not empty")
}

func TestNewImageIsNotMadeReadOnly(t *testing.T) {
	d := newDisk(t, t.TempDir(), 1<<20)
	d.ReadOnly = true
	d.refused(t, store.ErrReadOnly, d.Location, "without --read-only")
}

func TestImageOfAnImpossibleSizeIsRefused(t *testing.T) {
	for size, word := range map[int64]string{
		0:                    "truncate",
		headerSize - 1:       "cut off",
		headerSize + 1:       "truncate -s %4096",
		headerSize + 512:     "truncate -s %4096",
		headerSize + 1<<20/3: "no multiple",
	} {
		d := newDisk(t, t.TempDir(), 0)
		if err := os.Truncate(d.Location, size); err != nil {
			t.Fatal(err)
		}
		d.refused(t, store.ErrInvalid, d.Location, word)
	}
}

func TestDamagedHeaderIsRefused(t *testing.T) {
	for at, word := range map[int64]string{
		0:              "has no header",
		int64(saltAt):  "another key",
		int64(checkAt): "header is damaged",
		headerSize - 1: "damaged header",
	} {
		d := newDisk(t, t.TempDir(), 1<<20)
		d.format(t)
		d.patch(t, []byte{d.raw(t)[at] ^ 1}, at)
		d.refused(t, store.ErrInvalid, d.Location, word)
	}
	d := newDisk(t, t.TempDir(), 1<<20)
	d.format(t)
	d.patch(t, []byte{2}, int64(versionAt+3))
	d.refused(t, store.ErrInvalid, d.Location, "version 2")
	if err := os.Truncate(d.Location, headerSize/2); err != nil {
		t.Fatal(err)
	}
	d.refused(t, store.ErrInvalid, d.Location, "cut off")
}

func TestImageMayGrow(t *testing.T) {
	d := newDisk(t, t.TempDir(), sectorSize)
	want := randomBytes(sectorSize)
	d.with(t, func(s store.Store) { write(t, s, 0, want) })
	if err := os.Truncate(d.Location, headerSize+3*sectorSize); err != nil {
		t.Fatal(err)
	}
	d.with(t, func(s store.Store) {
		wantBytes(t, s, 0, append(want, make([]byte, 2*sectorSize)...))
	})
}

func TestPathsAreChecked(t *testing.T) {
	d := newDisk(t, t.TempDir(), sectorSize)
	dir := filepath.Dir(d.key)

	options := d.Options
	d.Options = map[string]string{"key": dir}
	d.refused(t, store.ErrInvalid, dir, "no regular file")
	d.Options = map[string]string{"key": ""} // as in --backend xts,key=
	d.refused(t, syscall.ENOENT, "key file", "/dev/urandom")

	d.Options = options
	for location, c := range map[string]struct{ errno, word any }{
		"":               {store.ErrInvalid, "--file"},
		dir:              {store.ErrInvalid, "no regular file"},
		dir + "/missing": {syscall.ENOENT, "truncate"},
	} {
		d.Location = location
		_, err := d.open(t)
		wantError(t, err, c.errno.(error), location, c.word.(string))
	}
}

func TestServedImageIsRefused(t *testing.T) {
	d := newDisk(t, t.TempDir(), sectorSize)
	d.with(t, func(store.Store) {
		_, err := d.open(t)
		wantError(t, err, syscall.EBUSY, d.Location, "already being served")
	})
}

// After a crash the host hands on the descriptor of the process that died. The
// path may lead elsewhere by then, and the lock must not be free in between.
func TestLeaseIsUsedInsteadOfThePath(t *testing.T) {
	d := newDisk(t, t.TempDir(), sectorSize)
	want := randomBytes(sectorSize)
	first := d.mustOpen(t)
	write(t, first, 0, want)
	lease := duplicate(t, first.(store.Leaser).Lease())
	if err := first.Close(); err != nil { // as a crash does
		t.Fatal(err)
	}
	_, err := d.open(t)
	wantError(t, err, syscall.EBUSY, "already being served")

	if err := os.Rename(d.Location, d.Location+".moved"); err != nil {
		t.Fatal(err)
	}
	d.Lease = lease
	d.with(t, func(s store.Store) { wantBytes(t, s, 0, want) })
}

// A lease that is not used would hold the lock for as long as the process lives.
func TestLeaseIsGivenUpWhenOpeningFails(t *testing.T) {
	d := newDisk(t, t.TempDir(), sectorSize)
	first := d.mustOpen(t)
	d.Lease = duplicate(t, first.(store.Leaser).Lease())
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	options := d.Options
	d.Options = map[string]string{"key": d.key + ".missing"}
	if _, err := d.open(t); err == nil {
		t.Fatal("the disk was opened without a key")
	}
	d.Lease, d.Options = nil, options
	d.format(t)
}

func duplicate(t *testing.T, f *os.File) *os.File {
	t.Helper()
	fd, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "lease")
}
