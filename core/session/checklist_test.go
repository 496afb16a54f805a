// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"bytes"
	"math"
	"slices"
	"syscall"
	"testing"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/sdk/store"
)

// The tests called TestChecklistNN, here and in the other files, hold this package
// against line NN of the list of what NBD servers get wrong. Lines about TLS (10)
// wait for TLS.

// oldstyleClient starts a session in the oldstyle handshake and takes the greeting.
func oldstyleClient(t *testing.T, e *export.Export) *client {
	t.Helper()
	c := connect(t, Config{Export: e, Handshake: Oldstyle})
	c.take(nbd.OldstyleGreetingSize)
	return c
}

func TestChecklist01NewstyleIsTheDefault(t *testing.T) {
	c := connect(t, Config{Export: open(t, newDisk(testSize))})
	c.want([]byte("NBDMAGIC" + "IHAVEOPT"))
}

// TestChecklist01GoldenOldstyle has its bytes from the protocol's text.
func TestChecklist01GoldenOldstyle(t *testing.T) {
	for name, options := range map[string]export.Options{"writable": {}, "read-only": {ReadOnly: true}} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, Config{Export: openWith(t, newDisk(0x12345), options), Handshake: Oldstyle})
			c.want([]byte("NBDMAGIC" + "\x00\x00\x42\x02\x81\x86\x12\x53" + "\x00\x00\x00\x00\x00\x01\x23\x45" +
				"\x00\x00\x00\x0d")) // HAS_FLAGS, SEND_FLUSH, SEND_FUA
			c.want(make([]byte, 124))
			c.say([]byte("\x25\x60\x95\x13" + "\x00\x00\x00\x03" + "COOKIE!!" +
				"\x00\x00\x00\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00"))
			c.want([]byte("\x67\x44\x66\x98\x00\x00\x00\x00COOKIE!!"))
			c.leave()
		})
	}
}

func TestChecklist01OldstyleServesWhatItAdvertises(t *testing.T) {
	d := newDisk(testSize)
	c := oldstyleClient(t, open(t, d))
	data := numbered(100000)
	c.must(nbd.CmdWrite, 0, 777, 100000, data)
	c.must(nbd.CmdWrite, nbd.CmdFlagFUA, 777, 10, data[:10])
	c.must(nbd.CmdFlush, 0, 0, 0)
	if got := c.must(nbd.CmdRead, nbd.CmdFlagFUA, 777, 100000); !bytes.Equal(got.data, data) {
		t.Error("read something else than was written")
	}
	if got := d.took("write"); len(got) != 2 || got[1].flags != store.FUA {
		t.Errorf("the store got %+v", got)
	}
	c.leave()
}

func TestChecklist01OldstyleHasNothingElse(t *testing.T) {
	d := newDisk(testSize)
	c := oldstyleClient(t, open(t, d))
	for cmd, flags := range map[nbd.Command]nbd.CommandFlags{
		nbd.CmdTrim: 0, nbd.CmdWriteZeroes: 0, nbd.CmdCache: 0, nbd.CmdBlockStatus: 0, nbd.CmdRead: nbd.CmdFlagDF,
	} {
		if got := c.do(cmd, flags, 0, 4096); got.errno != nbd.EINVAL {
			t.Errorf("%v with %v: %v", cmd, flags, got.errno)
		}
	}
	c.leave()
	if len(d.calls) > 0 {
		t.Errorf("the store got %+v", d.calls)
	}
}

// TestChecklist01OldstyleRefusesWritesOfAReadOnlyExport checks it where the flags
// could not say so.
func TestChecklist01OldstyleRefusesWritesOfAReadOnlyExport(t *testing.T) {
	c := oldstyleClient(t, openWith(t, newDisk(testSize), export.Options{ReadOnly: true}))
	if got := c.do(nbd.CmdWrite, 0, 0, 100000, numbered(100000)); got.errno != nbd.EPERM {
		t.Errorf("got %v", got.errno)
	}
	c.must(nbd.CmdRead, 0, 0, 4096)
	c.leave()
}

// TestChecklist12OrderOfChecks sends requests with more than one thing wrong: the
// first in the order decides. What comes before these, the magic number and DISC,
// has tests of its own.
func TestChecklist12OrderOfChecks(t *testing.T) {
	const bad, beyond = nbd.CmdFlagReqOne | nbd.CmdFlagDF, testSize
	for _, test := range []struct {
		name     string
		readOnly bool
		cmd      nbd.Command
		flags    nbd.CommandFlags
		off      uint64
		want     nbd.Errno
	}{
		{"read-only, range, flags", true, nbd.CmdWrite, bad, beyond, nbd.EPERM},
		{"read-only, flags", true, nbd.CmdWriteZeroes, bad, 0, nbd.EPERM},
		{"read-only, range", true, nbd.CmdTrim, 0, beyond, nbd.EPERM},
		{"range, flags", false, nbd.CmdWrite, bad, beyond, nbd.ENOSPC},
		{"range that overflows, flags", false, nbd.CmdWriteZeroes, bad, math.MaxUint64, nbd.ENOSPC},
		{"flags", false, nbd.CmdWrite, bad, 0, nbd.EINVAL},
	} {
		t.Run(test.name, func(t *testing.T) {
			both(t, func(t *testing.T, structured bool) {
				c := enter(t, Config{Export: openWith(t, newDisk(testSize), export.Options{ReadOnly: test.readOnly})}, structured)
				var payload []byte
				if test.cmd == nbd.CmdWrite { // is taken off whatever comes of the request
					payload = bytes.Repeat([]byte{0x25}, 70000)
				}
				if got := c.do(test.cmd, test.flags, test.off, 70000, payload); got.errno != test.want {
					t.Errorf("got %v, want %v", got.errno, test.want)
				}
				c.alive()
				c.leave()
			})
		})
	}
}

// TestChecklist12DiscIsNotJudged sends one that breaks every rule for others.
func TestChecklist12DiscIsNotJudged(t *testing.T) {
	c := simple(t, openWith(t, newDisk(testSize), export.Options{ReadOnly: true}))
	c.say(nbd.AppendRequest(nil, nbd.Request{Command: nbd.CmdDisc, Flags: math.MaxUint16, Offset: math.MaxUint64, Length: math.MaxUint32}))
	c.wantEnd()
	_ = c.Close()
	c.wantResult(true)
}

func TestChecklist13NotSupportedIsForFastZeroOnly(t *testing.T) {
	d := newDisk(testSize)
	d.info.CanFast = true
	c := simple(t, open(t, d))
	c.must(nbd.CmdWrite, 0, 0, 4096, numbered(4096)) // or it would be known to be zero
	d.failAt("punch", 0, syscall.ENOTSUP)
	if got := c.do(nbd.CmdWriteZeroes, nbd.CmdFlagFastZero, 0, 4096); got.errno != nbd.ENOTSUP {
		t.Errorf("with FAST_ZERO: %v", got.errno)
	}
	if got := c.do(nbd.CmdWriteZeroes, 0, 0, 4096); got.errno != nbd.EINVAL {
		t.Errorf("without: %v", got.errno)
	}
	c.leave()
}

// TestChecklist15FastZeroNeedsAFastStore checks it where it was not advertised.
func TestChecklist15FastZeroNeedsAFastStore(t *testing.T) {
	for _, fast := range []bool{true, false} {
		d := newDisk(testSize)
		d.info.CanFast = fast
		c := haggle15(t, d)
		if got := c.enter().Flags.Has(nbd.FlagSendFastZero); got != fast {
			t.Errorf("store fast: %v, advertised: %v", fast, got)
		}
		want := nbd.EINVAL
		if fast {
			want = 0
		}
		for _, off := range []uint64{0, 4096} { // the second time it is known to be zero
			for range 2 {
				if got := c.do(nbd.CmdWriteZeroes, nbd.CmdFlagFastZero, off, 4096); got.errno != want {
					t.Errorf("store fast: %v: got %v", fast, got.errno)
				}
			}
		}
		c.leave()
	}
}

func haggle15(t *testing.T, d *disk) *client {
	t.Helper()
	c := connect(t, Config{Export: open(t, d)})
	c.greet(fixedNoZeroes)
	return c
}

// TestChecklist15FastZeroIsFastInEveryPiece has a long one whose second piece would
// be slow: it is not carried out slowly.
func TestChecklist15FastZeroIsFastInEveryPiece(t *testing.T) {
	d := newDisk(1 << 30)
	d.info.CanFast = true
	d.failAt("punch", export.MaxZeroPiece, syscall.ENOTSUP)
	c := simple(t, open(t, d))
	if got := c.do(nbd.CmdWriteZeroes, nbd.CmdFlagFastZero, 0, 1<<30); got.errno != nbd.ENOTSUP {
		t.Errorf("got %v", got.errno)
	}
	for _, p := range d.took("punch") {
		if p.flags != store.Fast {
			t.Errorf("a piece was to be slow: %+v", p)
		}
	}
	c.leave()
}

// TestChecklist16ReadErrorsAreStructured: the client fails on a simple reply to a
// read.
func TestChecklist16ReadErrorsAreStructured(t *testing.T) {
	d := newDisk(2 << 30)
	d.failAt("read", 4096, syscall.EIO)
	c := structured(t, open(t, d))
	for _, test := range []struct {
		flags  nbd.CommandFlags
		off    uint64
		length uint32
		want   nbd.Errno
	}{
		{0, 2 << 30, 1, nbd.EINVAL},
		{nbd.CmdFlagNoHole, 0, 1, nbd.EINVAL},
		{0, 0, MaxRequest + 1, nbd.EOVERFLOW},
		{0, 4096, 512, nbd.EIO},
		{nbd.CmdFlagDF, 4096, 512, nbd.EIO},
		{0, 0, 2 * mib, nbd.EIO},
	} {
		got := c.do(nbd.CmdRead, test.flags, test.off, test.length)
		last := got.chunks[len(got.chunks)-1]
		if got.errno != test.want || last.Type != nbd.ChunkError || got.message == "" {
			t.Errorf("%+v: got %v %q in %v", test, got.errno, got.message, got.chunks)
		}
	}
	c.leave()
}

func TestChecklist18BlockStatusOfNothing(t *testing.T) {
	c := structured(t, open(t, newDisk(testSize)))
	for _, off := range []uint64{0, testSize} {
		if got := c.do(nbd.CmdBlockStatus, 0, off, 0); got.errno != nbd.EINVAL {
			t.Errorf("at %d: %v", off, got.errno)
		}
	}
	c.leave()
}

// TestChecklist19FlushCoversAllConnections writes on one connection and flushes on
// another: a flush of the store that begins after the write has to come between.
func TestChecklist19FlushCoversAllConnections(t *testing.T) {
	d := newDisk(testSize)
	e := open(t, d)
	a, b := simple(t, e), structured(t, e)
	for i, pair := range [][2]*client{{a, b}, {b, a}, {a, b}} {
		pair[0].must(nbd.CmdWrite, 0, 0, 4096, numbered(4096))
		pair[1].must(nbd.CmdFlush, 0, 0, 0)
		var order []string
		d.mu.Lock()
		for _, c := range d.calls {
			order = append(order, c.op)
		}
		d.mu.Unlock()
		if want := slices.Repeat([]string{"write", "flush"}, i+1); !slices.Equal(order, want) {
			t.Fatalf("the store got %v, want %v", order, want)
		}
	}
	a.leave()
	b.leave()
}

// TestChecklist19FlushThatIsUnderWayIsTooEarly writes while a flush is under way: it
// may have begun before the write, so another one has to follow.
func TestChecklist19FlushThatIsUnderWayIsTooEarly(t *testing.T) {
	d := newDisk(testSize)
	e := open(t, d)
	a, b := simple(t, e), simple(t, e)
	block := d.block(t, "flush", 0)
	early := a.send(nbd.CmdFlush, 0, 0, 0)
	receive(t, block.entered)
	a.must(nbd.CmdWrite, 0, 0, 4096, numbered(4096))
	late := b.send(nbd.CmdFlush, 0, 0, 0)
	block.release()
	if got := a.next(); got.cookie != early || got.errno != 0 {
		t.Errorf("got %+v", got)
	}
	if got := b.next(); got.cookie != late || got.errno != 0 {
		t.Errorf("got %+v", got)
	}
	if n := len(d.took("flush")); n != 2 {
		t.Errorf("the store was flushed %d times", n)
	}
	a.leave()
	b.leave()
}

// TestChecklist19FailedFlushFailsOnAllConnections also with FUA.
func TestChecklist19FailedFlushFailsOnAllConnections(t *testing.T) {
	d := newDisk(testSize)
	e := open(t, d)
	a, b := simple(t, e), structured(t, e)
	a.must(nbd.CmdWrite, 0, 0, 4096, numbered(4096))
	d.on(func(c diskCall) error {
		if c.op == "flush" {
			d.on(nil) // Linux reports a lost write once
			return syscall.EIO
		}
		return nil
	})
	for range 2 {
		if got := b.do(nbd.CmdFlush, 0, 0, 0); got.errno != nbd.EIO {
			t.Errorf("got %v", got.errno)
		}
	}
	if got := a.do(nbd.CmdFlush, 0, 0, 0); got.errno != nbd.EIO {
		t.Errorf("got %v", got.errno)
	}
	if got := a.do(nbd.CmdWrite, nbd.CmdFlagFUA, 0, 512, numbered(512)); got.errno != nbd.EIO {
		t.Errorf("FUA: got %v", got.errno)
	}
	a.leave()
	b.leave()
}

// TestChecklist19WritesAreSeenOnAllConnections at once, with and without FUA.
func TestChecklist19WritesAreSeenOnAllConnections(t *testing.T) {
	e := open(t, newDisk(testSize))
	a, b := simple(t, e), structured(t, e)
	for i, flags := range []nbd.CommandFlags{0, nbd.CmdFlagFUA} {
		want := bytes.Repeat([]byte{byte(i + 1)}, 4096)
		a.must(nbd.CmdWrite, flags, 4096, 4096, want)
		if got := b.must(nbd.CmdRead, 0, 4096, 4096); !bytes.Equal(got.data, want) {
			t.Error("the other connection reads something else")
		}
		b.must(nbd.CmdWriteZeroes, flags, 4096, 4096)
		if got := a.must(nbd.CmdRead, 0, 4096, 4096); !bytes.Equal(got.data, make([]byte, 4096)) {
			t.Error("the other connection does not read zeroes")
		}
	}
}

// TestChecklist21OnlyPayloadIsBounded sends what is longer than the longest READ.
func TestChecklist21OnlyPayloadIsBounded(t *testing.T) {
	d := newDisk(8 << 30)
	c := structured(t, open(t, d))
	for _, cmd := range []nbd.Command{nbd.CmdTrim, nbd.CmdWriteZeroes, nbd.CmdCache, nbd.CmdBlockStatus} {
		c.must(cmd, 0, 0, math.MaxUint32)
	}
	c.leave()
}

// TestChecklist22NoPayloadButAWritesIsDiscarded pipelines something behind requests
// whose length announces nothing.
func TestChecklist22NoPayloadButAWritesIsDiscarded(t *testing.T) {
	both(t, func(t *testing.T, structured bool) {
		c := enter(t, Config{Export: open(t, newDisk(8<<30))}, structured)
		for cmd, want := range map[nbd.Command]nbd.Errno{
			nbd.CmdTrim: 0, nbd.CmdWriteZeroes: 0, nbd.CmdCache: 0,
			nbd.CmdResize: nbd.EINVAL, 9: nbd.EINVAL, 1000: nbd.EINVAL, math.MaxUint16: nbd.EINVAL,
		} {
			for _, length := range []uint32{nbd.RequestSize, 4096, 1 << 20} {
				odd, oddCookie := c.request(cmd, 0, 0, length)
				flush, flushCookie := c.request(nbd.CmdFlush, 0, 0, 0)
				c.say(odd, flush)
				got := c.all(2)
				if got[oddCookie].errno != want || got[flushCookie].errno != 0 {
					t.Errorf("%v of %d bytes: %v, then %v", cmd, length, got[oddCookie].errno, got[flushCookie].errno)
				}
			}
		}
		c.leave()
	})
}

// TestChecklist25PiecesBeforeTheEndAreNoKnownZeroes has a client leave in the middle
// of a write over known zeroes. Another one then has to find what was written.
func TestChecklist25PiecesBeforeTheEndAreNoKnownZeroes(t *testing.T) {
	content := numbered(2 * mib)
	e := open(t, newDisk(8*mib))
	other := structured(t, e)
	other.must(nbd.CmdWriteZeroes, 0, 0, 8*mib)
	if got := other.must(nbd.CmdRead, 0, 0, 4096); got.holes != 4096 {
		t.Fatal("the disk is not known to be zero")
	}
	c, _ := transmit(t, e, false)
	c.send(nbd.CmdWrite, 0, mib, 4*mib, content[:mib+500])
	c.halfClose()
	c.wantEnd()
	c.wantResult(false)
	if got := other.must(nbd.CmdRead, 0, mib, mib); !bytes.Equal(got.data, content[:mib]) {
		t.Error("the piece that was whole is not read")
	}
	if got := other.must(nbd.CmdRead, 0, 2*mib, mib); !bytes.Equal(got.data, make([]byte, mib)) {
		t.Error("the piece that was not whole is read")
	}
	other.leave()
}
