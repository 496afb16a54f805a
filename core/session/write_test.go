// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"bytes"
	"encoding/binary"
	"math"
	"syscall"
	"testing"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

func TestLongWrites(t *testing.T) {
	both(t, func(t *testing.T, structured bool) {
		d := newDisk(8 * mib)
		c, q := transmit(t, open(t, d), structured)
		want := make([]byte, 8*mib)
		for i, w := range longReads {
			payload := bytes.Repeat([]byte{byte(i + 1)}, int(w.length))
			copy(want[w.off:], payload)
			c.must(nbd.CmdWrite, nbd.CmdFlagFUA, w.off, w.length, payload)
		}
		c.leave()
		if !bytes.Equal(d.content(t, 0, 8*mib), want) {
			t.Error("something else was written")
		}
		for _, w := range d.took("write") {
			if w.flags != store.FUA {
				t.Errorf("a piece lost its FUA: %+v", w)
			}
		}
		if most := q.most.Load(); most > wire.DefaultBudget {
			t.Errorf("%d bytes were borrowed at a time", most)
		}
	})
}

// TestWriteWithAFailingPiece checks that the error arrives once, with the rest of
// the payload taken off.
func TestWriteWithAFailingPiece(t *testing.T) {
	for _, bad := range []int64{0, 3 * mib, 8*mib - 1} {
		both(t, func(t *testing.T, structured bool) {
			d := newDisk(8 * mib)
			d.failAt("write", bad, syscall.ENOSPC)
			c, _ := transmit(t, open(t, d), structured)
			if got := c.do(nbd.CmdWrite, 0, 0, 8*mib, numbered(8*mib)); got.errno != nbd.ENOSPC {
				t.Errorf("got %v", got.errno)
			}
			c.alive()
			c.leave()
		})
	}
}

// TestChecklist25EndInTheMiddleOfAPayload checks that what came in whole pieces is written,
// that the write is not answered, and that what was asked before is.
func TestChecklist25EndInTheMiddleOfAPayload(t *testing.T) {
	content := numbered(3 * mib)
	d := newDisk(8 * mib)
	c, _ := transmit(t, open(t, d), false)
	before := c.send(nbd.CmdFlush, 0, 0, 0)
	c.send(nbd.CmdWrite, 0, mib, 4*mib, content[:2*mib+500])
	c.halfClose()
	if got := c.next(); got.cookie != before {
		t.Errorf("got %+v", got)
	}
	c.wantEnd()
	c.wantResult(false)
	if !bytes.Equal(d.content(t, mib, 2*mib), content[:2*mib]) {
		t.Error("the pieces that were whole are not written")
	}
	if !bytes.Equal(d.content(t, 3*mib, mib), make([]byte, mib)) {
		t.Error("the piece that was not whole is written")
	}
}

// TestEndInTheMiddleOfARefusedPayload is the same for payload that is thrown away.
func TestEndInTheMiddleOfARefusedPayload(t *testing.T) {
	c, _ := transmit(t, openWith(t, newDisk(testSize), export.Options{ReadOnly: true}), false)
	c.send(nbd.CmdWrite, 0, 0, 1000, numbered(999))
	c.halfClose()
	c.wantEnd()
	c.wantResult(false)
}

func TestChecklist24WriteOfAGiB(t *testing.T) {
	v := newVast(4 << 30)
	c, q := transmitBulk(t, open(t, v), false)
	cookie := c.send(nbd.CmdWrite, 0, 100*mib, MaxRequest)
	piece := make([]byte, mib)
	for i := range uint64(MaxRequest / mib) {
		binary.BigEndian.PutUint64(piece, 100+i)
		if _, err := c.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.next(); got.cookie != cookie || got.errno != 0 {
		t.Errorf("got %+v", got)
	}
	c.leave()
	if v.written != MaxRequest || v.badWrites != 0 {
		t.Errorf("%d bytes were written, %d pieces to the wrong place", v.written, v.badWrites)
	}
	if most := q.most.Load(); most > wire.DefaultBudget {
		t.Errorf("%d bytes were borrowed at a time", most)
	}
}

// TestWriteOverTheMaximum checks that such a write is refused for its length, and
// that its payload, like that of any refused write, is taken off without memory.
func TestWriteOverTheMaximum(t *testing.T) {
	v := newVast(4 << 30)
	c, q := transmitBulk(t, open(t, v), false)
	c.send(nbd.CmdWrite, 0, 0, MaxRequest+1)
	piece := bytes.Repeat([]byte{0x25}, mib)
	for range 32 {
		if _, err := c.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	c.halfClose()
	c.wantEnd()
	c.wantResult(false)
	if q.most.Load() != 0 || v.written != 0 {
		t.Errorf("%d bytes were borrowed for a payload that nobody wants, %d written", q.most.Load(), v.written)
	}

	validator := &transmission{export: open(t, newVast(4<<30)), agreed: &agreement{}}
	bad := validator.validate(nbd.Request{Command: nbd.CmdWrite, Length: MaxRequest + 1})
	if bad == nil || bad.errno != nbd.EOVERFLOW {
		t.Errorf("got %+v", bad)
	}
}

// TestChecklist21LongZeroings go piece by piece, since they are not bounded by a payload.
func TestChecklist21LongZeroings(t *testing.T) {
	for _, cmd := range []nbd.Command{nbd.CmdTrim, nbd.CmdWriteZeroes} {
		d := newDisk(8 << 30)
		c := simple(t, open(t, d))
		c.must(cmd, 0, 777, math.MaxUint32)
		c.leave()
		next := int64(777)
		for _, p := range d.took("punch") {
			if p.off != next || p.length > export.MaxZeroPiece {
				t.Fatalf("%v: piece %+v where %d is next", cmd, p, next)
			}
			next += p.length
		}
		if next != 777+math.MaxUint32 {
			t.Errorf("%v ended at %d", cmd, next)
		}
	}
}

func TestLongZeroingThatFails(t *testing.T) {
	d := newDisk(1 << 30)
	d.failAt("punch", 200*mib, syscall.ENOSPC)
	c := simple(t, open(t, d))
	if got := c.do(nbd.CmdWriteZeroes, 0, 0, 1<<30); got.errno != nbd.ENOSPC {
		t.Errorf("got %v", got.errno)
	}
	if n := len(d.took("punch")); n != 4 {
		t.Errorf("%d pieces were tried, the fourth failed", n)
	}
	c.alive()
	c.leave()
}
