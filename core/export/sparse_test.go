// SPDX-License-Identifier: GPL-3.0-or-later

package export

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// pattern makes bytes of pieces, a digit for each: 0 is a block of zeroes.
func pattern(digits string) (p []byte) {
	for _, d := range digits {
		p = append(p, filled(blockSize, byte(d-'0'))...)
	}
	return p
}

func TestKnownZeroesAreLeftOutOfWrites(t *testing.T) {
	const k = blockSize
	for _, c := range []struct {
		name string
		disk string // what is there, in blocks
		off  int64
		p    []byte
		want []call
	}{
		{"dense", "1111", 0, pattern("0020"), []call{{"write", 0, 4 * k, 0}}},
		{"all zero", "0000", 0, pattern("0000"), nil},
		{"part of a block", "0000", 100, make([]byte, 50), nil},
		{"front", "0000", 0, pattern("0012"), []call{{"write", 2 * k, 2 * k, 0}}},
		{"back", "0000", 0, pattern("1200"), []call{{"write", 0, 2 * k, 0}}},
		{"middle", "0000", 0, pattern("1002"), []call{{"write", 0, k, 0}, {"write", 3 * k, k, 0}}},
		{"zero over data stays", "0100", 0, pattern("0000"), []call{{"write", k, k, 0}}},
		{"zero over data joins its run", "0100", 0, pattern("3000"), []call{{"write", 0, 2 * k, 0}}},
		{"unaligned", "0000", k - 10, append(make([]byte, 10), pattern("10")[:k+5]...), []call{{"write", k, k, 0}}},
		{"unaligned data at the edges", "0000", k - 1, append([]byte{9}, append(pattern("0"), 9)...), []call{{"write", k - 1, 1, 0}, {"write", 2 * k, 1, 0}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newTestStore(4 * k)
			copy(s.data, pattern(c.disk))
			want := bytes.Clone(s.data)
			copy(want[c.off:], c.p)
			x := serve(t, s).connect(t)
			x.must(write(c.off, c.p, 0))
			got := s.took()
			if len(got) == 2 && got[0].off > got[1].off {
				got[0], got[1] = got[1], got[0]
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("the store got %v, want %v", got, c.want)
			}
			if !bytes.Equal(s.data, want) || !bytes.Equal(x.content(0, 4*k), want) {
				t.Error("wrong bytes")
			}
		})
	}
}

func TestFUAHoldsForWhatIsLeftOut(t *testing.T) {
	for _, support := range []store.Support{store.None, store.Emulated, store.Native} {
		s := newTestStore(4 * blockSize)
		s.info.FUA = support
		c := serve(t, s).connect(t)
		whole := []call{{"write", 0, blockSize, 0}, {op: "flush"}}
		if support == store.Native {
			whole = []call{{"write", 0, blockSize, store.FUA}}
		}
		for _, x := range []struct {
			r    *wire.Request
			want []call
		}{
			{write(0, noData, store.FUA), []call{{op: "flush"}}},
			{zero(0, blockSize, store.FUA), []call{{op: "flush"}}},
			{write(0, pattern("10"), store.FUA), []call{{"write", 0, blockSize, 0}, {op: "flush"}}},
			{write(0, data, store.FUA), whole},
		} {
			c.must(x.r)
			if got := s.took(); !reflect.DeepEqual(got, x.want) {
				t.Errorf("FUA %d, %v: the store got %v, want %v", support, x.r.Op, got, x.want)
			}
		}
		// The disk's second block is known zero, the first is not.
		c.must(zero(0, 2*blockSize, store.FUA))
		if got := s.took(); len(got) == 0 || (support == store.Native) != (got[0].flags == store.FUA) || (support == store.Native) != (len(got) == 1) {
			t.Errorf("FUA %d: punch became %v", support, got)
		}
	}
}

func TestKnownZeroesAreReadWithoutTheStore(t *testing.T) {
	s := newTestStore(4*blockSize + 100)
	copy(s.data[blockSize:], data)
	c := serve(t, s).connect(t)
	for _, x := range []struct {
		off, length int64
		known       bool
	}{
		{0, blockSize, true}, {1, 5, true}, {blockSize - 1, 2, false}, {2 * blockSize, 2*blockSize + 100, true}, {4 * blockSize, 100, true}, {4*blockSize + 99, 1, true},
	} {
		r := read(x.off, x.length)
		r.Data.Bytes[0] = 0x55
		c.must(r)
		if r.Zero != x.known || (len(s.took()) == 0) != x.known {
			t.Errorf("%d bytes at %d: zero %v, want %v", x.length, x.off, r.Zero, x.known)
		}
		if r.Zero && r.Data.Bytes[0] != 0x55 {
			t.Error("the payload was touched")
		}
	}
}

func TestZeroRequestsBecomeWhatTheStoreCan(t *testing.T) {
	const (
		fua, keep, fast, discard = store.FUA, store.KeepAllocated, store.Fast, store.Discard
		k                        = blockSize
	)
	for _, c := range []struct {
		name   string
		change func(*store.Info)
		off    int64 // 0 is data, from 2 blocks on it is known zero
		flags  store.Flags
		want   []call
		err    error
		known  bool // afterwards
	}{
		{name: "plain", flags: 0, want: []call{{"punch", 0, k, 0}}, known: true},
		{name: "known", off: 2 * k, known: true},
		{name: "known fast, store slow", off: 2 * k, flags: fast, known: true},
		{name: "known discard", off: 2 * k, flags: discard, known: true},
		{name: "known keep", off: 2 * k, flags: keep, want: []call{{"punch", 2 * k, k, keep}}},
		{name: "keep", flags: keep, want: []call{{"punch", 0, k, keep}}},
		{name: "discard", flags: discard, want: []call{{"punch", 0, k, discard}}},
		{name: "discard, store zeroes", change: func(i *store.Info) { i.CanDiscard = false }, flags: discard | fua, want: []call{{"punch", 0, k, fua}}, known: true},
		{name: "known discard, store zeroes", change: func(i *store.Info) { i.CanDiscard = false }, off: 2 * k, flags: discard, known: true},
		{name: "fast, store slow", flags: fast, err: store.ErrNotSupported},
		{name: "fast, store fast", change: func(i *store.Info) { i.CanFast = true }, flags: fast, want: []call{{"punch", 0, k, fast}}, known: true},
		{name: "keep, store frees always", change: func(i *store.Info) { i.CanKeepAllocated = false }, flags: keep | fua, want: []call{{"write", 0, k, fua}}},
		{name: "keep fast, store frees always", change: func(i *store.Info) { i.CanKeepAllocated, i.CanFast = false, true }, flags: keep | fast, err: store.ErrNotSupported},
		{name: "keep, store never frees", change: func(i *store.Info) { i.CanKeepAllocated, i.CanPunch = false, false }, flags: keep, want: []call{{"punch", 0, k, 0}}, known: true},
		{name: "fua by flush", change: func(i *store.Info) { i.FUA = store.Emulated }, flags: fua, want: []call{{"punch", 0, k, 0}, {op: "flush"}}, known: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newTestStore(4 * k)
			copy(s.data, pattern("11"))
			if c.change != nil {
				c.change(&s.info)
			}
			e := serve(t, s)
			x := e.connect(t)
			if err := x.do(zero(c.off, k, c.flags)); !errors.Is(err, c.err) {
				t.Errorf("error %v, want %v", err, c.err)
			}
			if got := s.took(); !reflect.DeepEqual(got, c.want) {
				t.Errorf("the store got %v, want %v", got, c.want)
			}
			if e.zeros.knownZero(c.off, k) != c.known {
				t.Errorf("known to be zero: %v", !c.known)
			}
			if c.err == nil && c.flags&discard == 0 && !bytes.Equal(s.bytes(c.off, k), noData) {
				t.Error("the disk is not zero")
			}
		})
	}
}

func TestLargeZeroIsWrittenInPieces(t *testing.T) {
	s := newTestStore(3 * wire.MaxPayload)
	s.info.CanKeepAllocated = false
	copy(s.data, filled(3*wire.MaxPayload, 1))
	c := serve(t, s).connect(t)
	c.must(zero(1, 2*wire.MaxPayload+1, store.KeepAllocated))
	if n := len(s.took()); n != 3 {
		t.Fatalf("%d writes", n)
	}
	want := filled(3*wire.MaxPayload, 1)
	clear(want[1 : 2*wire.MaxPayload+2])
	if !bytes.Equal(s.data, want) {
		t.Fatal("wrong bytes")
	}
	s.fail("write", store.ErrNoSpace)
	if err := c.do(zero(0, 2*wire.MaxPayload, store.KeepAllocated)); !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("got %v", err)
	}
	if n := len(s.took()); n != 1 {
		t.Fatalf("%d writes after the first failed", n-1)
	}
}

func TestTrimThatTheStoreDoesNotKnowSucceeds(t *testing.T) {
	for _, discards := range []bool{true, false} {
		s := newTestStore(blockSize)
		s.info.CanDiscard = discards
		s.data[0] = 1
		s.fail("punch", store.ErrNotSupported)
		c := serve(t, s).connect(t)
		c.must(zero(0, 10, store.Discard))
		if err := c.do(zero(0, 10, 0)); !errors.Is(err, store.ErrNotSupported) {
			t.Fatalf("zeroing got %v", err)
		}
	}
}

func TestFirstErrorOfASplitWriteWins(t *testing.T) {
	s := newTestStore(8 * blockSize)
	c := serve(t, s).connect(t)
	s.fail("write", store.ErrNoSpace)
	if err := c.do(write(0, pattern("10203040"), store.FUA)); !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("got %v", err)
	}
	if calls := s.took(); len(calls) != 4 {
		t.Fatalf("the store got %v", calls) // and no flush
	}
	if len(c.done) != 0 {
		t.Fatal("completed more than once")
	}
	var o op
	o.fail(nil)
	o.fail(errTest)
	o.fail(store.ErrNoSpace)
	if err := o.firstError(); !errors.Is(err, errTest) {
		t.Fatalf("got %v", err)
	}
}

func TestSubmittedRequestIsLeftAsItWas(t *testing.T) {
	s := newTestStore(8 * blockSize)
	c := serve(t, s).connect(t)
	p := pattern("1020")
	r := write(0, p, store.FUA)
	owner := new(int)
	r.Owner = owner
	want := *r
	c.must(r)
	if *r != want || !bytes.Equal(p, pattern("1020")) {
		t.Fatalf("request came back as %+v", r)
	}
}

// One client, random requests, against plain memory.
func TestSparseWritesAreByteExact(t *testing.T) {
	const size = 16*blockSize + 123
	rnd := rand.New(rand.NewPCG(3, 4))
	s := newTestStore(size)
	model := make([]byte, size)
	c := serve(t, s).connect(t)
	for range 5000 {
		off := rnd.Int64N(size)
		length := 1 + rnd.Int64N(min(size-off, 5*blockSize))
		if rnd.IntN(2) == 0 {
			off &^= blockSize - 1
		}
		switch rnd.IntN(4) {
		case 0:
			c.must(zero(off, length, 0))
			clear(model[off : off+length])
		case 1:
			if got := c.content(off, length); !bytes.Equal(got, model[off:off+length]) {
				t.Fatalf("wrong bytes in %d at %d", length, off)
			}
		default:
			p := make([]byte, length)
			for i := range p {
				if (off+int64(i))/1000%3 == 0 && rnd.IntN(2) == 0 {
					p[i] = byte(rnd.Int())
				}
			}
			if rnd.IntN(2) == 0 {
				clear(p[:rnd.Int64N(length+1)])
			}
			c.must(write(off, p, 0))
			copy(model[off:], p)
		}
	}
	if !bytes.Equal(s.data, model) {
		t.Fatal("the disk differs from the model")
	}
}
