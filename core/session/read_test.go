// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"slices"
	"syscall"
	"testing"

	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

const mib = 1 << 20

// longReads are reads of more than one piece, at places that no piece respects.
var longReads = []struct {
	off    uint64
	length uint32
}{{0, 8 * mib}, {12345, 3*mib + 1}, {8*mib - 1 - mib, mib + 1}, {0, mib}, {1, 2 * mib}}

func TestLongReads(t *testing.T) {
	content := numbered(8 * mib)
	for name, test := range map[string]struct {
		structured bool
		flags      nbd.CommandFlags
		contiguous bool // one chunk for all
	}{
		"simple":               {false, 0, true},
		"structured":           {true, 0, false},
		"not to be fragmented": {true, nbd.CmdFlagDF, true},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDisk(8 * mib)
			d.fill(t, content)
			c, q := transmit(t, open(t, d), test.structured)
			for _, r := range longReads {
				got := c.must(nbd.CmdRead, test.flags, r.off, r.length)
				if !bytes.Equal(got.data, content[r.off:][:r.length]) {
					t.Errorf("%d bytes at %d are wrong", r.length, r.off)
				}
				if !test.structured {
					continue
				}
				want := (int(r.length) + mib - 1) / mib // pieces
				if test.contiguous {
					want = 1
				}
				if n := contentChunks(got); n != want {
					t.Errorf("%d bytes at %d came in %d chunks, want %d", r.length, r.off, n, want)
				}
			}
			c.leave()
			if most := q.most.Load(); most > wire.DefaultBudget {
				t.Errorf("%d bytes were borrowed at a time", most)
			}
		})
	}
}

func contentChunks(a *answer) (n int) {
	for _, h := range a.chunks {
		if h.Type == nbd.ChunkOffsetData || h.Type == nbd.ChunkOffsetHole {
			n++
		}
	}
	return n
}

// TestKnownZeroes reads from a disk that is known to be zero in parts. It is so
// once a WRITE_ZEROES has been answered.
func TestKnownZeroes(t *testing.T) {
	content := numbered(4 * mib)
	zeroed := func(t *testing.T, structured bool) (*disk, *client) {
		d := newDisk(4 * mib)
		d.fill(t, content)
		c := enter(t, Config{Export: open(t, d)}, structured)
		c.must(nbd.CmdWriteZeroes, 0, mib, 2*mib)
		return d, c
	}
	want := bytes.Clone(content)
	clear(want[mib:][:2*mib])
	reads := []struct {
		off    uint64
		length uint32
	}{{mib, mib}, {mib + 777, 100}, {0, 4 * mib}, {mib - 1, 2}, {mib, 2 * mib}}

	t.Run("simple", func(t *testing.T) {
		d, c := zeroed(t, false)
		for _, r := range reads {
			if got := c.must(nbd.CmdRead, 0, r.off, r.length); !bytes.Equal(got.data, want[r.off:][:r.length]) {
				t.Errorf("%d bytes at %d are wrong", r.length, r.off)
			}
		}
		if got := d.took("read"); len(got) != 3 {
			t.Errorf("the store was asked for known zeroes: %+v", got)
		}
	})
	t.Run("structured", func(t *testing.T) {
		_, c := zeroed(t, true)
		holes := []int64{mib, 100, 2 * mib, 0, 2 * mib}
		for i, r := range reads {
			got := c.must(nbd.CmdRead, 0, r.off, r.length)
			if !bytes.Equal(got.data, want[r.off:][:r.length]) {
				t.Errorf("%d bytes at %d are wrong", r.length, r.off)
			}
			if got.holes != holes[i] {
				t.Errorf("%d bytes at %d have %d in holes, want %d", r.length, r.off, got.holes, holes[i])
			}
		}
	})
	t.Run("not to be fragmented", func(t *testing.T) {
		_, c := zeroed(t, true)
		for _, r := range reads {
			got := c.must(nbd.CmdRead, nbd.CmdFlagDF, r.off, r.length)
			if !bytes.Equal(got.data, want[r.off:][:r.length]) || contentChunks(got) != 1 {
				t.Errorf("%d bytes at %d are wrong, or in %d chunks", r.length, r.off, contentChunks(got))
			}
		}
	})
}

// TestChecklist17FailureBeforeTheFirstByte has the first piece fail: nothing was said yet,
// so the client gets a plain error and the connection lives.
func TestChecklist17FailureBeforeTheFirstByte(t *testing.T) {
	for _, length := range []uint32{4096, mib, 8 * mib} {
		for _, flags := range []nbd.CommandFlags{0, nbd.CmdFlagDF} {
			both(t, func(t *testing.T, structured bool) {
				if flags != 0 && !structured {
					return
				}
				d := newDisk(8 * mib)
				d.failAt("read", 0, syscall.ENOMEM)
				c, _ := transmit(t, open(t, d), structured)
				got := c.do(nbd.CmdRead, flags, 0, length)
				if got.errno != nbd.ENOMEM {
					t.Errorf("%d bytes with %v: got %v", length, flags, got.errno)
				}
				if last := len(got.chunks) - 1; structured && !got.chunks[last].Type.IsError() {
					t.Errorf("the last chunk is %v", got.chunks[last])
				}
				if flags != 0 && len(got.chunks) != 1 {
					t.Errorf("got %d chunks", len(got.chunks))
				}
				c.alive()
				c.leave()
			})
		}
	}
}

// TestChecklist17FailureBehindChunks has a later piece of a structured read fail.
func TestChecklist17FailureBehindChunks(t *testing.T) {
	d := newDisk(8 * mib)
	d.failAt("read", 5*mib, syscall.EIO)
	c, _ := transmit(t, open(t, d), true)
	got := c.do(nbd.CmdRead, 0, 0, 8*mib)
	last := got.chunks[len(got.chunks)-1]
	if got.errno != nbd.EIO || last.Type != nbd.ChunkError || contentChunks(got) != 7 {
		t.Errorf("got %v in %v", got.errno, got.chunks)
	}
	c.alive()
	c.leave()
}

// TestChecklist17FailureInsideAChunk has a later piece of a read fail that may not be
// fragmented: the chunk is padded with zeroes, then the error follows.
func TestChecklist17FailureInsideAChunk(t *testing.T) {
	content := numbered(8 * mib)
	d := newDisk(8 * mib)
	d.fill(t, content)
	d.failAt("read", 5*mib, syscall.EIO)
	c, _ := transmit(t, open(t, d), true)
	got := c.do(nbd.CmdRead, nbd.CmdFlagDF, 0, 8*mib)
	types := []nbd.ChunkType{}
	for _, h := range got.chunks {
		types = append(types, h.Type)
	}
	if got.errno != nbd.EIO || !slices.Equal(types, []nbd.ChunkType{nbd.ChunkOffsetData, nbd.ChunkError}) {
		t.Errorf("got %v in %v", got.errno, types)
	}
	if !bytes.Equal(got.data[:5*mib], content[:5*mib]) || !bytes.Equal(got.data[5*mib:], make([]byte, 3*mib)) {
		t.Error("the chunk is not data, then zeroes")
	}
	c.alive()
	c.leave()
}

// TestChecklist17FailureInsideASimpleReply checks that nothing at all follows the data that
// is there: whatever came, the client would take for the rest of its data.
func TestChecklist17FailureInsideASimpleReply(t *testing.T) {
	content := numbered(8 * mib)
	d := newDisk(8 * mib)
	d.fill(t, content)
	b := newBlocker()
	t.Cleanup(b.release)
	d.on(func(c diskCall) error {
		if c.op == "read" && c.off == 5*mib {
			b.wait(c)
			return syscall.EIO
		}
		return nil
	})
	c, _ := transmit(t, open(t, d), false)
	read := c.send(nbd.CmdRead, 0, 0, 8*mib)
	for range 50 { // some of which are answered before the read
		c.send(nbd.CmdFlush, 0, 0, 0)
	}
	for cookie := uint64(0); cookie != read; {
		reply, err := nbd.DecodeSimpleReply(c.take(nbd.SimpleReplySize))
		if err != nil || reply.Errno != 0 {
			t.Fatalf("got %+v, %v", reply, err)
		}
		cookie = reply.Cookie
	}
	got := c.take(4 * mib)
	receive(t, b.entered)
	for range 50 { // all of which have to wait for the read
		c.send(nbd.CmdRead, 0, 0, 4096)
	}
	eventually(t, "the short reads are carried out", func() bool { return len(d.took("read")) == 6+50 })
	b.release()
	rest, _ := io.ReadAll(c.in)
	got = append(got, rest...)
	if !bytes.Equal(got, content[:5*mib]) {
		t.Errorf("got %d bytes, want the %d in front of the error and nothing else", len(got), 5*mib)
	}
	_ = c.Close()
	c.wantResult(false)
}

// TestChecklist24ReadOfAGiB reads what the manual's read command may ask for, through
// bounded memory.
func TestChecklist24ReadOfAGiB(t *testing.T) {
	const off = 100
	c, q := transmitBulk(t, open(t, newVast(4<<30)), false)
	cookie := c.send(nbd.CmdRead, 0, off*mib, MaxRequest)
	c.want(nbd.AppendSimpleReply(nil, 0, cookie))
	for i := range uint64(MaxRequest / mib) {
		c.wantMiB(off + i)
	}
	c.wantLittleBorrowed(q)
}

// wantLittleBorrowed ends a session and checks how much memory it took.
func (c *client) wantLittleBorrowed(q *counting) {
	c.t.Helper()
	clear(c.pending)
	c.alive()
	c.leave()
	if most := q.most.Load(); most > wire.DefaultBudget {
		c.t.Errorf("%d bytes were borrowed at a time", most)
	}
}

// TestStructuredReadOfManyPieces is the same with chunks, and smaller.
func TestStructuredReadOfManyPieces(t *testing.T) {
	const off, length = 100, 128
	t.Run("one chunk", func(t *testing.T) {
		c, q := transmitBulk(t, open(t, newVast(4<<30)), true)
		cookie := c.send(nbd.CmdRead, nbd.CmdFlagDF, off*mib, length*mib)
		c.want(nbd.AppendOffsetData(nil, 0, cookie, off*mib, length*mib))
		for i := range uint64(length) {
			c.wantMiB(off + i)
		}
		c.want(nbd.AppendNoneChunk(nil, cookie))
		c.wantLittleBorrowed(q)
	})
	t.Run("many chunks", func(t *testing.T) {
		c, q := transmitBulk(t, open(t, newVast(4<<30)), true)
		cookie := c.send(nbd.CmdRead, 0, off*mib, length*mib)
		seen := map[uint64]bool{}
		for range length {
			b := c.take(nbd.ChunkHeaderSize + nbd.OffsetDataSize)
			at := binary.BigEndian.Uint64(b[nbd.ChunkHeaderSize:])
			if !bytes.Equal(b, nbd.AppendOffsetData(nil, 0, cookie, at, mib)) {
				t.Fatalf("got %x", b)
			}
			c.wantMiB(at / mib)
			seen[at] = true
		}
		c.want(nbd.AppendNoneChunk(nil, cookie))
		if len(seen) != length {
			t.Errorf("%d of %d pieces came", len(seen), length)
		}
		c.wantLittleBorrowed(q)
	})
}

// wantMiB receives the MiB with a number from a vast disk.
func (c *client) wantMiB(number uint64) {
	c.t.Helper()
	if got := binary.BigEndian.Uint64(c.take(8)); got != number {
		c.t.Fatalf("got MiB %d, want %d", got, number)
	}
	if n, err := c.in.Discard(mib - 8); err != nil {
		c.t.Fatalf("MiB %d ends after %d bytes: %v", number, n+8, err)
	}
}

func TestChecklist13RequestsOverTheMaximum(t *testing.T) {
	v := newVast(8 << 30)
	both(t, func(t *testing.T, structured bool) {
		c := enter(t, Config{Export: open(t, v)}, structured)
		for _, length := range []uint32{MaxRequest + 1, math.MaxUint32} {
			if got := c.do(nbd.CmdRead, 0, 0, length); got.errno != nbd.EOVERFLOW {
				t.Errorf("read of %d bytes: %v", length, got.errno)
			}
		}
		c.leave()
	})
	if len(v.calls) != 0 {
		t.Error("the store was asked")
	}
}
