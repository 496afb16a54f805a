// SPDX-License-Identifier: Apache-2.0

package align

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/flexnbd/flexnbd/sdk/rangelock"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/storetest"
)

// torn is a disk of blocks that are rubbish while they are being written, as those
// of a store may be that encrypts, compresses or keeps checksums.
type torn struct {
	*blocks
	half func() // called while they are
}

func newTorn(block, size int64, half func()) *torn { return &torn{newBlocks(block, size), half} }

func (d *torn) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	if err := d.blocks.WriteAt(ctx, bytes.Repeat([]byte{0xdb}, len(p)), off, 0); err != nil {
		return err
	}
	d.half()
	return d.Store.WriteAt(ctx, p, off, flags)
}

// noted is a disk's first 8192 bytes, in blocks of 512, and what they should be.
type noted struct {
	store.Store
	want []byte
}

// note fills the disk.
func note(t *testing.T, disk store.Store) *noted {
	t.Helper()
	want := make([]byte, 8192)
	for i := range want {
		want[i] = byte(1 + i%251)
	}
	if err := disk.WriteAt(t.Context(), want, 0, 0); err != nil {
		t.Fatal(err)
	}
	return &noted{disk, want}
}

// check reads a range.
func (n *noted) check(off, length int64) error {
	p := make([]byte, length)
	if err := n.ReadAt(context.Background(), p, off); err != nil {
		return err
	}
	if !bytes.Equal(p, n.want[off:off+length]) {
		return fmt.Errorf("the %d bytes at %d are not what was written there", length, off)
	}
	return nil
}

// checkMap asks for extents. Nothing here is ever zero.
func (n *noted) checkMap(off, length int64) error {
	extents, err := n.Extents(context.Background(), off, length)
	if err == nil && extents[0].State != store.Data {
		err = fmt.Errorf("the extents at %d are %v", off, extents)
	}
	return err
}

// finished says whether a goroutine of synctest's has sent its error yet, and what.
func finished(done <-chan error) (error, bool) {
	synctest.Wait()
	select {
	case err := <-done:
		return err, true
	default:
		return nil, false
	}
}

// begin calls do on a goroutine of its own.
func begin(do func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	return done
}

func TestReadWaitsForTheWriteBackOfItsBlock(t *testing.T) {
	for name, check := range map[string]func(*noted) error{
		"Aligned":   func(n *noted) error { return n.check(512, 512) },
		"Unaligned": func(n *noted) error { return n.check(700, 5) },
		"LastByte":  func(n *noted) error { return n.check(1023, 1) },
		"Astride":   func(n *noted) error { return n.check(1000, 100) },
		"Whole":     func(n *noted) error { return n.check(0, 8192) },
		"Extents":   func(n *noted) error { return n.checkMap(700, 5) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				held, hold := make(chan struct{}), false
				n := note(t, New(newTorn(512, 8192, func() {
					if hold {
						<-held
					}
				})))
				hold = true
				copy(n.want[600:], "small")
				write := begin(func() error { return n.WriteAt(t.Context(), []byte("small"), 600, 0) })
				synctest.Wait()

				read := begin(func() error { return check(n) })
				if err, over := finished(read); over {
					t.Errorf("a read did not wait for the write-back of its block (%v)", err)
					read = begin(func() error { return err })
				}
				// Reads of other blocks go on. One that hung would be reported by synctest.
				if err := errors.Join(n.check(0, 512), n.check(1, 511), n.check(1024, 512), n.check(1025, 5000), n.checkMap(1025, 7)); err != nil {
					t.Error(err)
				}
				close(held)
				if err := errors.Join(<-write, <-read); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// heldReads starts reads of block 1 and returns with them held in the disk behind. Each
// value that is sent to release lets one go on.
func heldReads(t *testing.T, reads int) (n *noted, release chan<- struct{}, ended *sync.WaitGroup) {
	t.Helper()
	goOn := make(chan struct{})
	var left atomic.Int64
	behind := newTorn(512, 8192, func() {})
	n = note(t, New(behind))
	behind.before = func(what string, _, _ int64) error {
		if what == "read" && left.Add(-1) >= 0 {
			<-goOn
		}
		return nil
	}
	left.Store(int64(reads))
	before := &noted{n.Store, bytes.Clone(n.want)}
	ended = &sync.WaitGroup{}
	for i := range int64(reads) {
		ended.Go(func() {
			if err := before.check(513+i%500, 5); err != nil {
				t.Errorf("a read that began before the write: %v", err)
			}
		})
	}
	synctest.Wait()
	return n, goOn, ended
}

// The other way round: what a read began with must not change under it.
func TestWriteBackWaitsForTheReadOfItsBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, release, held := heldReads(t, 1)
		copy(n.want[600:], "small")
		write := begin(func() error { return n.WriteAt(t.Context(), []byte("small"), 600, 0) })
		if err, over := finished(write); over {
			t.Errorf("a block was written back under a read (%v)", err)
			write = begin(func() error { return err })
		}
		// Other blocks wait for nobody.
		if err := errors.Join(n.check(1024, 512), n.WriteAt(t.Context(), n.want[1030:1033], 1030, 0)); err != nil {
			t.Error(err)
		}
		read := begin(func() error { return n.check(512, 512) })
		if err, over := finished(read); over {
			t.Errorf("a read overtook the write-back that waits (%v)", err)
			read = begin(func() error { return err })
		}
		release <- struct{}{}
		if err := errors.Join(<-write, <-read); err != nil {
			t.Error(err)
		}
		held.Wait()
	})
}

// Some of these have no seat.
func TestWriteBackWaitsForEveryReadOfItsBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const reads = 3 * seatCount
		n, release, held := heldReads(t, reads)
		copy(n.want[600:], "small")
		write := begin(func() error { return n.WriteAt(t.Context(), []byte("small"), 600, 0) })
		for i := range reads {
			if err, over := finished(write); over {
				t.Errorf("a block was written back under %d reads (%v)", reads-i, err)
				write = begin(func() error { return err })
			}
			release <- struct{}{}
		}
		if err := errors.Join(<-write, n.check(512, 512)); err != nil {
			t.Error(err)
		}
		held.Wait()
	})
}

func TestWaitsForReadsAndOfReadsEndWithTheirContexts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		held := map[string]chan struct{}{}
		behind := newTorn(512, 8192, func() {
			if at := held["write"]; at != nil {
				<-at
			}
		})
		n := note(t, New(behind))
		behind.before = func(what string, _, _ int64) error {
			if at := held[what]; at != nil && what == "read" {
				held[what] = nil
				<-at
			}
			return nil
		}
		cancelled := func(do func(context.Context) error) {
			t.Helper()
			ctx, cancel := context.WithCancel(t.Context())
			done := begin(func() error { return do(ctx) })
			if err, over := finished(done); over {
				t.Errorf("it did not wait (%v)", err)
				cancel()
				return
			}
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("error is %v, want %v", err, context.Canceled)
			}
		}
		small := func(ctx context.Context) error { return n.WriteAt(ctx, []byte("small"), 600, 0) }

		held["read"] = make(chan struct{})
		release := held["read"]
		read := begin(func() error { return n.check(512, 512) })
		synctest.Wait()
		cancelled(small)
		cancelled(small) // whose turn it is once the first has given up
		close(release)
		if err := <-read; err != nil {
			t.Error(err)
		}

		held["write"] = make(chan struct{})
		copy(n.want[600:], "small")
		write := begin(func() error { return small(t.Context()) })
		synctest.Wait()
		cancelled(func(ctx context.Context) error { return n.ReadAt(ctx, make([]byte, 5), 700) })
		cancelled(func(ctx context.Context) error { _, err := n.Extents(ctx, 700, 5); return err })
		close(held["write"])
		if err := errors.Join(<-write, n.check(0, 8192)); err != nil {
			t.Error(err)
		}
		r := n.Store.(*aligner).readers
		if w := r.writing.Load(); w != 0 {
			t.Errorf("%d write-backs are under way, to readers", w)
		}
		for i := range r.seats {
			if r.seats[i].taken.Load() != 0 {
				t.Error("a seat is taken by nobody")
			}
		}
	})
}

func TestReadErrorGivesThePlaceBack(t *testing.T) {
	b := newBlocks(512, 8192)
	disk := New(b)
	b.before = func(what string, _, _ int64) error {
		if what == "read" || what == "extents" {
			return store.ErrIO
		}
		return nil
	}
	for range 2 * seatCount {
		_, err := disk.Extents(t.Context(), 3, 5)
		if !errors.Is(err, store.ErrIO) || !errors.Is(disk.ReadAt(t.Context(), make([]byte, 5), 3), store.ErrIO) {
			t.Fatal("no error")
		}
	}
	b.before = nil
	if err := disk.WriteAt(t.Context(), []byte{1}, 3, 0); err != nil {
		t.Fatal(err)
	}
}

// Without synctest's order: everything at once.
func TestBytesThatNobodyWritesDoNotChange(t *testing.T) {
	rounds := 3000
	if testing.Short() {
		rounds = 300
	}
	n := note(t, New(newTorn(512, 8192, runtime.Gosched)))
	var writers, readers sync.WaitGroup
	over := make(chan struct{})
	for i := range int64(4) { // each byte 512*i+256 is written, with what is there
		writers.Go(func() {
			for round := range int64(rounds) {
				off := 512*(i%2+round%8*2) + 256 + i
				if err := n.WriteAt(t.Context(), n.want[off:off+1], off, 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range int64(4) {
		readers.Go(func() {
			for round := i; ; round++ {
				select {
				case <-over:
					return
				default:
				}
				// The first half of a block, or what is behind the bytes that are written.
				// A whole block would be read while others write to a part of it.
				off, length := 512*(round%16), int64(256)
				if round%3 == 0 {
					off, length = off+260, 252
				}
				if err := n.check(off, length); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	writers.Wait()
	close(over)
	readers.Wait()
	if err := n.check(0, 8192); err != nil {
		t.Error(err)
	}
}

// The suite's clause about that does not know where the pauses are.
func TestTornBlocksKeepTheContractBehindAlign(t *testing.T) {
	storetest.Suite{
		Open: func(_ testing.TB, size int64) store.Store {
			return New(newTorn(4096, size, runtime.Gosched))
		},
		SizeUnit: 4096,
		LeaveOut: func(c storetest.Clause) string {
			if c.Name == "OverlappingWritesLeaveBytesOfOne" {
				return "blocks that are written whole are torn for whoever reads them then"
			}
			return ""
		},
	}.Run(t)
}

// Reads and write-backs that do nothing meet between any two steps of enter and
// shutOut.
func TestReadersAndWriteBacksNeverMeet(t *testing.T) {
	var locks rangelock.Lock
	r := newReaders(&locks, store.Info{Size: 8192, MinBlock: 512})
	block := run{512, 1024}
	rounds := 100_000
	if testing.Short() {
		rounds = 20_000
	}
	var reading, writing atomic.Int64
	over := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-over:
					return
				default:
				}
				at, err := r.enter(t.Context(), block)
				if err != nil {
					t.Error(err)
					return
				}
				reading.Add(1)
				if i%64 == 0 {
					runtime.Gosched()
				}
				if writing.Load() != 0 {
					t.Error("a read met a write-back")
				}
				reading.Add(-1)
				r.leave(at)
			}
		})
	}
	for range rounds {
		claim, err := locks.Lock(t.Context(), block.start, block.end, true)
		if err == nil {
			err = r.shutOut(t.Context(), block)
		}
		if err != nil {
			t.Error(err)
			break
		}
		writing.Store(1)
		met := int64(0)
		for range 50 {
			met += reading.Load()
		}
		if met != 0 {
			t.Error("a write-back met a read")
		}
		writing.Store(0)
		r.letIn()
		locks.Unlock(claim)
		if t.Failed() {
			break
		}
	}
	close(over)
	readers.Wait()
}

func TestSpansOfDisksOfAnySize(t *testing.T) {
	for _, c := range []struct {
		size  int64
		block uint32
	}{
		{1 << 20, 2}, {1 << 20, 64 << 10}, {1 << 44, 512}, {store.MaxSize, 2}, {store.MaxSize, 64 << 10},
	} {
		r := newReaders(&rangelock.Lock{}, store.Info{Size: c.size, MinBlock: c.block})
		block := int64(c.block)
		end := c.size / block * block
		last := run{end - block, end}
		at, err := r.enter(t.Context(), last)
		if err != nil || at.seat == nil {
			t.Fatalf("%+v: no seat (%v)", c, err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		for _, touching := range []run{last, {0, end}, {end / 2 / block * block, end}} {
			if err := r.shutOut(ended, touching); !errors.Is(err, context.Canceled) {
				t.Errorf("%+v: %v was written back while %v was read (%v)", c, touching, last, err)
			}
		}
		for _, apart := range []run{{0, block}, {0, end / 2 / block * block}} {
			if err := r.shutOut(ended, apart); err != nil {
				t.Errorf("%+v: %v waits for a read of %v (%v)", c, apart, last, err)
			} else {
				r.letIn()
			}
		}
		r.leave(at)
		if err := r.shutOut(ended, run{0, end}); err != nil {
			t.Errorf("%+v: it waits for a read that is over (%v)", c, err)
		}
	}
}
