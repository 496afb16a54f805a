// SPDX-License-Identifier: GPL-3.0-or-later

package export

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// change is what a tracker was told.
type change struct {
	off, length int64
	resume      func()
}

// notes is a tracker that writes down what it is told, and keeps every request if
// told to.
type notes struct {
	keep bool

	mu      sync.Mutex
	changes []change
	came    chan struct{} // gets a token for each
}

func newNotes(keep bool) *notes { return &notes{keep: keep, came: make(chan struct{}, 1000)} }

func (n *notes) Changed(off, length int64, resume func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.changes = append(n.changes, change{off, length, resume})
	n.came <- struct{}{}
	return n.keep
}

func (n *notes) took() (ranges [][2]int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.changes {
		ranges = append(ranges, [2]int64{c.off, c.length})
	}
	n.changes = nil
	return ranges
}

func (n *notes) want(t *testing.T, ranges ...[2]int64) {
	t.Helper()
	if got := n.took(); !slices.Equal(got, ranges) {
		t.Errorf("told of %v, want %v", got, ranges)
	}
}

func TestTrackerIsToldOfEveryChangeAndNothingElse(t *testing.T) {
	s := newTestStore(64 << 10)
	e := serve(t, s)
	c, n := e.connect(t), newNotes(false)
	e.Track(n)
	c.must(write(4096, data, 0))
	n.want(t, [2]int64{4096, blockSize})
	c.must(write(8192, data, store.FUA))
	n.want(t, [2]int64{8192, blockSize})
	c.must(zero(4096, 4096, 0))
	n.want(t, [2]int64{4096, 4096})
	c.must(zero(8192, 4096, store.Discard))
	n.want(t, [2]int64{8192, 4096})
	c.content(0, 64<<10)
	c.must(flush())
	c.must(zero(4096, 4096, 0)) // known to be zero already
	c.must(write(4096, make([]byte, 4096), 0))
	n.want(t)

	s.fail("write", errTest)
	if err := c.do(write(0, data, 0)); err == nil {
		t.Fatal("the write did not fail")
	}
	n.want(t, [2]int64{0, blockSize})
	s.fail("punch", errTest)
	if err := c.do(zero(8192, 4096, 0)); err == nil {
		t.Fatal("the zeroing did not fail")
	}
	n.want(t, [2]int64{8192, 4096})

	e.Track(nil)
	s.fail("write", nil)
	c.must(write(0, data, 0))
	n.want(t)
}

func TestKeptRequestIsInsideTheGateUntilItIsResumed(t *testing.T) {
	e := serve(t, newTestStore(64<<10))
	c, n := e.connect(t), newNotes(true)
	e.Track(n)
	for _, r := range []*wire.Request{write(0, data, 0), write(0, data, store.FUA), zero(0, 4096, 0)} {
		ended := make(chan error, 1)
		go func() { ended <- c.do(r) }()
		<-n.came
		e.Gate().Hold()
		drained := make(chan error, 1)
		go func() { drained <- e.Gate().Drain(t.Context()) }()
		select {
		case err := <-ended:
			t.Fatalf("%v ended with %v while the tracker kept it", r.Op, err)
		case err := <-drained:
			t.Fatalf("the gate drained with %v while the tracker kept a %v", err, r.Op)
		default:
		}
		n.changes[0].resume()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := <-drained; err != nil {
			t.Error(err)
		}
		e.Gate().Open()
		n.took()
	}
}

func TestWriteInPartsIsResumedPartByPart(t *testing.T) {
	e := serve(t, newTestStore(64<<10))
	c, n := e.connect(t), newNotes(true)
	e.Track(n)
	bytes := slices.Concat(data, make([]byte, blockSize), data) // the middle is zero already
	ended := make(chan error, 1)
	go func() { ended <- c.do(write(0, bytes, 0)) }()
	<-n.came
	<-n.came
	if n.changes[0].off > 0 { // either may land first
		slices.Reverse(n.changes)
	}
	n.changes[1].resume()
	select {
	case err := <-ended:
		t.Fatalf("the write ended with %v before its first part", err)
	default:
	}
	n.changes[0].resume()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	n.want(t, [2]int64{0, blockSize}, [2]int64{2 * blockSize, blockSize})
}

func TestTrackerIsToldOfALoss(t *testing.T) {
	s, e := crashing(t, store.SurvivesFlushed)
	c, n := e.connect(t), newNotes(false)
	e.Track(n)
	c.must(write(0, data, 0))
	n.took()
	e.Restarted()
	if len(n.changes) != 1 || n.changes[0].resume != nil {
		t.Errorf("told of %v", n.changes)
	}
	n.want(t, [2]int64{0, s.info.Size})
	c.wantLoss(true)
	e.Restarted() // nothing was written since
	n.want(t)
}

// The promise of Track, with writers that do not stop for it: what the tracker does
// not know of is found on the disk.
func TestChangesAreEitherToldOrOnTheDiskAlready(t *testing.T) {
	const writers, each = 4, 2000
	e, err := Open(t.Context(), memstore.New(writers*blockSize), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close(context.Background())
	var acknowledged [writers][]uint64 // by the writer itself
	var running sync.WaitGroup
	for w := range int64(writers) {
		c := e.connect(t)
		defer c.Close()
		running.Go(func() {
			for i := range uint64(each) {
				c.must(write(w*blockSize, binary.BigEndian.AppendUint64(nil, i+1), 0))
				acknowledged[w] = append(acknowledged[w], i+1)
			}
		})
	}
	n := &counts{told: make([]int, writers)}
	e.Track(n)
	reader := newClient(t, e.NewReader)
	var seen [writers]uint64
	for w := range int64(writers) {
		seen[w] = binary.BigEndian.Uint64(reader.content(w*blockSize, 8))
	}
	running.Wait()
	for w := range writers {
		if on := int(seen[w]) + n.told[w]; on < each {
			t.Errorf("writer %d: %d changes are on the disk, %d were told of, of %d", w, seen[w], n.told[w], each)
		}
	}
}

// counts is a tracker that counts by block.
type counts struct {
	mu   sync.Mutex
	told []int
}

func (n *counts) Changed(off, _ int64, _ func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.told[off/blockSize]++
	return false
}

func TestReaderReadsWhileTheGateIsHeld(t *testing.T) {
	e := serve(t, newTestStore(64<<10))
	c := e.connect(t)
	c.must(write(4096, data, 0))
	e.Gate().Hold()
	defer e.Gate().Open()
	reader := newClient(t, e.NewReader)
	if got := reader.content(4096, blockSize); !slices.Equal(got, data) {
		t.Error("wrong bytes")
	}
	if err := e.Gate().Drain(t.Context()); err != nil {
		t.Error(err)
	}
	defer func() {
		if recover() == nil {
			t.Error("a reader took a write")
		}
	}()
	_ = reader.do(write(0, data, 0))
}

func TestReadsAsZeroes(t *testing.T) {
	s := newTestStore(64 << 10)
	e := serve(t, s)
	look := func(want bool) {
		t.Helper()
		if got, err := e.ReadsAsZeroes(t.Context()); got != want || err != nil {
			t.Errorf("%v, %v, want %v", got, err, want)
		}
	}
	look(true)
	s.extents = func(off, length int64) ([]store.Extent, error) { // in two calls, and a hole that may read as anything
		if off == 0 {
			return []store.Extent{{Length: 4096, State: store.Hole | store.Zero}}, nil
		}
		return []store.Extent{{Offset: off, Length: length, State: store.Hole}}, nil
	}
	look(false)
	s.extents = nil
	e.connect(t).must(write(60<<10, data, 0))
	look(false)
	s.fail("extents", errTest)
	if zero, err := e.ReadsAsZeroes(t.Context()); zero || err == nil {
		t.Errorf("%v, %v", zero, err)
	}
}
