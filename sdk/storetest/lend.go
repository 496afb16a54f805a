// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// loanOf returns what s lends, or nil.
func loanOf(s store.Store) *store.Loan {
	if lender, ok := s.(store.Lender); ok {
		return lender.Lend()
	}
	return nil
}

// borrow returns the descriptor that the disk lends.
func (d *disk) borrow() *os.File {
	d.t.Helper()
	loan := loanOf(d.Store)
	if loan == nil {
		d.t.Fatal("one disk lends a descriptor and another does not")
	}
	return loan.File()
}

// lentDescriptorFitsTheFacts checks what a host checks before it uses a loan.
func lentDescriptorFitsTheFacts(t testing.TB, b *bench) {
	d := b.open(t, b.usual())
	f := d.borrow()
	if first, second := loanOf(d.Store), loanOf(d.Store); first != second {
		t.Error("Lend returns a new loan each time")
	}
	if !d.info.Replayable || d.info.Survives != store.SurvivesAcknowledged {
		t.Errorf("a disk that lends says Replayable: %v, Survives: %v, want true and SurvivesAcknowledged", d.info.Replayable, d.info.Survives)
	}
	if b.unit > 1 {
		t.Error("a disk that lends refuses unaligned requests: nobody will borrow")
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatalf("looking at the lent descriptor: %v", err)
	}
	if device := st.Mode()&(os.ModeDevice|os.ModeCharDevice) == os.ModeDevice; !st.Mode().IsRegular() && !device {
		t.Fatalf("the lent descriptor has mode %v, want a regular file or a block device", st.Mode())
	}
	if size, err := f.Seek(0, io.SeekEnd); err != nil || size != d.info.Size { // of a device, too
		t.Errorf("the lent descriptor has %d bytes (error %v), the disk %d", size, err, d.info.Size)
	}
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		t.Fatalf("asking how the lent descriptor was opened: %v", err)
	}
	if access := flags & unix.O_ACCMODE; access != unix.O_RDWR && (access != unix.O_RDONLY || !d.info.ReadOnly) {
		t.Errorf("the lent descriptor was opened with access mode %d, which does not do for a disk with ReadOnly: %v", access, d.info.ReadOnly)
	}
	if flags&(unix.O_APPEND|unix.O_DIRECT|unix.O_PATH) != 0 {
		t.Errorf("the lent descriptor was opened with flags %#x, among them O_APPEND, O_DIRECT or O_PATH", flags)
	}
}

// compareLent reads s on the lent descriptor.
func (d *disk) compareLent(f *os.File, s span, after string) {
	d.t.Helper()
	got := d.noise(s.length)
	if _, err := f.ReadAt(got, s.off); err != nil {
		d.t.Fatalf("%s, reading %d bytes at %d on the lent descriptor: %v", after, s.length, s.off, err)
	}
	if want := d.model[s.off:s.end()]; !bytes.Equal(got, want) {
		at := firstDifference(got, want)
		d.t.Fatalf("%s, byte %d reads as %#02x on the lent descriptor, want %#02x", after, s.off+int64(at), got[at], want[at])
	}
}

func lentBytesAreTheDisks(t testing.TB, b *bench) {
	d := b.open(t, b.usual())
	f := d.borrow()
	whole := span{0, int64(len(d.model))}
	d.compareLent(f, whole, "on a fresh disk")
	for _, s := range d.spans() {
		d.write(s, 0)
		d.compareLent(f, whole, fmt.Sprintf("after WriteAt of %d bytes at %d", s.length, s.off))

		p := d.noise(s.length)
		if _, err := f.WriteAt(p, s.off); err != nil {
			t.Fatalf("writing %d bytes at %d on the lent descriptor: %v", s.length, s.off, err)
		}
		copy(d.model[s.off:], p)
		d.compareAll(fmt.Sprintf("after %d bytes were written at %d on the lent descriptor", s.length, s.off))

		for _, flags := range []store.Flags{0, store.KeepAllocated, store.Fast, store.FUA} {
			if d.punch(s, flags) {
				d.compareLent(f, whole, fmt.Sprintf("after a punch of %d bytes at %d, flags %b", s.length, s.off, flags))
			}
			d.write(s, 0)
		}
	}
	if err := d.Flush(context.Background()); err != nil {
		t.Fatalf("Flush: %v", err)
	}
	d.compareLent(f, whole, "after a flush")
}

// lentNeighboursAreLeftAlone has half of the stripes written on the descriptor for
// as long as the others between them are written, and punched, by calls.
func lentNeighboursAreLeftAlone(t testing.TB, b *bench) {
	d := b.open(t, b.usual())
	f := d.borrow()
	ctx := context.Background()
	flags := store.Flags(0)
	if d.info.FUA != store.None {
		flags = store.FUA // as the core sends it
	}
	const writers, rounds = 8, 40
	stripe := max(d.unit, 100)
	var calling atomic.Int32 // those who make calls and are not done
	calling.Store(writers / 2)
	parallel(t, writers, func(writer int) error {
		borrows := writer%2 == 0
		if !borrows {
			defer calling.Add(-1)
		}
		off := int64(writer) * stripe
		p, got := make([]byte, stripe), make([]byte, stripe)
		for round := 0; round < rounds || borrows && calling.Load() > 0; round++ {
			fillWith(p, byte(1+writer*20+round%20))
			var err error
			switch {
			case borrows:
				_, err = f.WriteAt(p, off)
			case round%4 == 2:
				clear(p)
				err = d.PunchHole(ctx, off, stripe, 0)
			default:
				err = d.WriteAt(ctx, p, off, flags)
			}
			if err != nil {
				return fmt.Errorf("changing %d bytes at %d: %w", stripe, off, err)
			}
			if _, err := f.ReadAt(got, off); err != nil {
				return fmt.Errorf("reading %d bytes at %d on the lent descriptor: %w", stripe, off, err)
			}
			if at := firstDifference(got, p); at < len(p) {
				return fmt.Errorf("byte %d reads as %#02x right after %#02x was stored there, while its neighbours were written by call or on the descriptor",
					off+int64(at), got[at], p[at])
			}
		}
		copy(d.model[off:], p)
		return nil
	})
	d.compareAll("after neighbours were written on the lent descriptor and by calls")
}

func loanIsOutUntilItIsReturned(t testing.TB, b *bench) {
	d := b.open(t, b.usual())
	loan := loanOf(d.Store)
	over, cancel := context.WithCancel(context.Background())
	cancel()
	select {
	case <-loan.Revoked():
		t.Fatal("a disk that was just opened has revoked its loan")
	default:
	}
	if err := loan.Revoke(over); !errors.Is(err, context.Canceled) {
		t.Fatalf("Revoke of a loan that is out, with an ended context: %v", err)
	}
	loan.Return()
	ctx, cancel := context.WithTimeout(context.Background(), b.patience)
	defer cancel()
	if err := loan.Revoke(ctx); err != nil {
		t.Fatalf("Revoke of a loan that was returned: %v", err)
	}
	if !d.info.ReadOnly {
		d.fill()
	}
	d.compareAll("after the loan was taken back")
}
