// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"bytes"
	"sync"
	"testing"
	"time"
)

// stuck is a migration in its write-through phase, whose copy of the disk's first piece
// hangs inside the destination's disk.
func stuck(t *testing.T) (o *origin, d *target, x *transfer, release func()) {
	t.Helper()
	o, d = pair(t, listens)
	entered, gate := make(chan struct{}), make(chan struct{})
	var once sync.Once
	hang := func(off int64, p []byte) error {
		if off == 0 {
			once.Do(func() { close(entered); <-gate })
		}
		return nil
	}
	d.disk.write.Store(&hang)
	o.start(Order{To: d.address})
	arrived(t, entered, "the copy to hang")
	m := o.source.latest()
	m.mu.Lock()
	x = m.transfer
	m.mu.Unlock()
	x.through.start(x.ctx)
	t.Cleanup(func() {
		select {
		case <-gate:
		default:
			close(gate)
		}
	})
	return o, d, x, func() { close(gate) }
}

// What a client writes to a range that is being copied is sent after the copy, however
// long that takes: on two connections they could change places.
func TestWriteWaitsForTheCopyOfItsRange(t *testing.T) {
	o, d, _, release := stuck(t)
	u := o.newClient()
	written := later(func() error { return u.write(8192, bytes.Repeat([]byte{0xab}, 4096)) })
	pending(t, written, "the write did not wait for the copy of its range")
	beside := o.newClient() // another range waits for nobody
	must(t, arrived(t, later(func() error { return beside.write(mib+65536, []byte{7}) }), "a write elsewhere"))
	release()
	must(t, arrived(t, written, "the write"))
	o.migrated()
	d.equals(o)
}

// A client that waited too long goes on, and its range, dirty now, is not copied again
// before the copy that hangs has been answered.
func TestLateWriteIsMarked(t *testing.T) {
	o, d, x, release := stuck(t)
	u := o.newClient()
	began := time.Now()
	must(t, arrived(t, later(func() error { return u.write(8192, bytes.Repeat([]byte{0xab}, 4096)) }), "the write"))
	if took := time.Since(began); took < throughLimit/2 || took > throughLimit+throughLimit/10 {
		t.Errorf("the write waited for %v", took)
	}
	if !x.bitmap.AllDirty(8192, 4096) || o.source.Status().LateWrites != 1 {
		t.Errorf("the range is not dirty, with %d late writes", o.source.Status().LateWrites)
	}
	release()
	o.migrated()
	d.equals(o)
}

// The same when the phase ends, for the hold or with the attempt.
func TestWriteThatIsNotSentAfterAllIsMarked(t *testing.T) {
	for name, end := range map[string]func(h *through){
		"the phase ends":     func(h *through) { h.end() },
		"the wait gives way": func(h *through) { h.mu.Lock(); h.stop(); h.mu.Unlock() },
	} {
		t.Run(name, func(t *testing.T) {
			o, d, x, release := stuck(t)
			u := o.newClient()
			written := later(func() error { return u.write(8192, bytes.Repeat([]byte{0xab}, 4096)) })
			pending(t, written, "the write did not wait")
			end(x.through)
			must(t, arrived(t, written, "the write"))
			if !x.bitmap.AllDirty(8192, 4096) {
				t.Error("the range is not dirty")
			}
			release()
			o.migrated()
			d.equals(o)
		})
	}
}

// A change that lands between the clear of a range's bits and the reply to its copy is
// seen: the range is dirty again.
func TestChangeDuringACopyMarksAgain(t *testing.T) {
	o, d, x, release := stuck(t)
	x.through.end()
	if x.bitmap.AnyDirty(0, pieceSize) {
		t.Fatal("the range that is being copied is dirty")
	}
	must(t, o.newClient().write(100, []byte{1, 2, 3}))
	if !x.bitmap.AllDirty(0, 1) {
		t.Error("the change was not marked")
	}
	release()
	o.migrated()
	d.equals(o)
}
