// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/align"
	"github.com/flexnbd/flexnbd/sdk/store"
)

func TestFileHoldsNoPlaintext(t *testing.T) {
	d := newDisk(t, t.TempDir(), 4<<20)
	secret := []byte("attack at dawn, ")
	d.with(t, func(s store.Store) {
		write(t, s, 0, bytes.Repeat(secret, 1<<20/len(secret)))
		unaligned := align.New(s)
		write(t, unaligned, 2<<20+17, secret)
		write(t, unaligned, 3<<20-5, secret)
	})
	raw := d.raw(t)
	if bytes.Contains(raw, secret[:8]) {
		t.Error("the file holds plaintext")
	}
	// Noise has each byte as often as any other: 4096 times in a megabyte, give or
	// take 64. A tenth off is more than six times that.
	var counts [256]int
	for _, b := range raw[headerSize : headerSize+1<<20] {
		counts[b]++
	}
	if least, most := slices.Min(counts[:]), slices.Max(counts[:]); least < 3686 || most > 4506 {
		t.Errorf("of a megabyte of ciphertext, one byte is there %d times and another %d times", least, most)
	}
}

// The lower store lends its file. Were this Store to lend it too, flexnbd would
// read the ciphertext there by itself.
func TestFileIsNotLent(t *testing.T) {
	d := newDisk(t, t.TempDir(), sectorSize)
	d.with(t, func(s store.Store) {
		if _, lends := s.(store.Lender); lends {
			t.Error("the disk lends its file")
		}
	})
}

// flagged is a lower store on a file system that can't punch: it would take Discard
// as leave to do nothing.
type flagged struct {
	store.Leaser
	seen store.Flags
}

func (f *flagged) Info() store.Info { return store.Info{Size: headerSize, CanDiscard: true} }

func (f *flagged) PunchHole(_ context.Context, _, _ int64, flags store.Flags) error {
	f.seen = flags
	return nil
}

func TestDiscardStillZeroes(t *testing.T) {
	lower := &flagged{}
	s := newStore(lower, nil)
	if s.Info().CanDiscard {
		t.Error("the disk says that it discards")
	}
	if err := s.PunchHole(t.Context(), 0, 0, store.Discard|store.FUA); err != nil || lower.seen != store.FUA {
		t.Errorf("the lower store saw flags %b (%v), want those but Discard", lower.seen, err)
	}
}

func TestHolesStayHoles(t *testing.T) {
	const size = 16 << 20
	d := newDisk(t, t.TempDir(), size)
	d.with(t, func(s store.Store) {
		ctx := t.Context()
		write(t, s, 8<<20, randomBytes(1<<20))
		if err := s.PunchHole(ctx, 8<<20, 1<<19, 0); err != nil {
			t.Fatal(err)
		}
		wantBytes(t, s, 0, make([]byte, 8<<20+1<<19)) // reading fills nothing in
		if err := s.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		zero := int64(0)
		for off := int64(0); off < size; {
			extents, err := s.Extents(ctx, off, size-off)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range extents {
				if e.State&store.Zero != 0 {
					zero += e.Length
				}
				off = e.End()
			}
		}
		if want := int64(size - 1<<19); zero != want {
			t.Errorf("%d bytes of the disk are zero extents, want %d", zero, want)
		}
	})
	if space := d.allocated(t); space < 1<<19 || space > 1<<20 {
		t.Errorf("an image with 512 KiB of data takes %d bytes", space)
	}
}

// A small write makes data of a hole of 4096 bytes, and align writes back zeroes
// around it. Who reads those must not see anything but zeroes, whatever part of
// the write has been done. That is align's work: a rule for whole sectors would do here.
func TestNeighboursOfASmallWriteStayZero(t *testing.T) {
	const rounds, reading = 2000, sectorSize / 2
	d := newDisk(t, t.TempDir(), sectorSize)
	d.with(t, func(s store.Store) {
		disk := align.New(s)
		ctx, cancel := context.WithCancel(t.Context())
		var readers sync.WaitGroup
		for range 4 {
			readers.Go(func() {
				p := make([]byte, sectorSize-reading)
				for ctx.Err() == nil {
					if err := disk.ReadAt(t.Context(), p, reading); err != nil || !allZero(p) {
						t.Errorf("bytes that nobody wrote are not zero any more, or can't be read (%v)", err)
						return
					}
				}
			})
		}
		for range rounds {
			write(t, disk, 0, randomBytes(512))
			if err := disk.PunchHole(t.Context(), 0, sectorSize, 0); err != nil {
				t.Error(err)
				break
			}
		}
		cancel()
		readers.Wait()
	})
}
