// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"bytes"
	"context"
	"encoding/binary"
	"sync"
	"testing"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/store"
)

// disk is a memstore whose calls a test counts, stops in the middle, and lets
// fail.
type disk struct {
	*memstore.Store
	info store.Info

	mu    sync.Mutex
	calls []diskCall
	hook  func(diskCall) error // called before each call; an error is the call's
}

type diskCall struct {
	op          string
	off, length int64
	flags       store.Flags
}

// newDisk returns a disk that does not know its extents, so that its export knows
// of no zeroes before they are written.
func newDisk(size int64) *disk {
	d := &disk{Store: memstore.New(size)}
	d.info = d.Store.Info()
	d.info.CanExtents = false
	return d
}

func (d *disk) Info() store.Info { return d.info }

// on sets the hook.
func (d *disk) on(hook func(diskCall) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hook = hook
}

// failAt makes every op that touches the byte at off fail.
func (d *disk) failAt(op string, off int64, err error) {
	d.on(func(c diskCall) error {
		if c.op == op && c.off <= off && off < c.off+c.length {
			return err
		}
		return nil
	})
}

func (d *disk) begin(c diskCall) error {
	d.mu.Lock()
	d.calls = append(d.calls, c)
	hook := d.hook
	d.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(c)
}

// took returns the calls of one kind since the start.
func (d *disk) took(op string) (calls []diskCall) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.calls {
		if c.op == op {
			calls = append(calls, c)
		}
	}
	return calls
}

func (d *disk) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := d.begin(diskCall{"read", off, int64(len(p)), 0}); err != nil {
		return err
	}
	return d.Store.ReadAt(ctx, p, off)
}

func (d *disk) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	if err := d.begin(diskCall{"write", off, int64(len(p)), flags}); err != nil {
		return err
	}
	return d.Store.WriteAt(ctx, p, off, flags)
}

func (d *disk) PunchHole(ctx context.Context, off, length int64, flags store.Flags) error {
	if err := d.begin(diskCall{"punch", off, length, flags}); err != nil {
		return err
	}
	return d.Store.PunchHole(ctx, off, length, flags)
}

func (d *disk) Extents(ctx context.Context, off, length int64) ([]store.Extent, error) {
	if err := d.begin(diskCall{"extents", off, length, 0}); err != nil {
		return nil, err
	}
	return d.Store.Extents(ctx, off, length)
}

func (d *disk) Flush(ctx context.Context) error {
	if err := d.begin(diskCall{op: "flush"}); err != nil {
		return err
	}
	return d.Store.Flush(ctx)
}

// fill writes b to the whole disk, past the export.
func (d *disk) fill(t *testing.T, b []byte) {
	t.Helper()
	if err := d.Store.WriteAt(context.Background(), b, 0, 0); err != nil {
		t.Fatal(err)
	}
}

// content reads past the export.
func (d *disk) content(t *testing.T, off, length int64) []byte {
	t.Helper()
	b := make([]byte, length)
	if err := d.Store.ReadAt(context.Background(), b, off); err != nil {
		t.Fatal(err)
	}
	return b
}

// vast is a disk of any size that takes no memory. Each MiB reads as its own
// number in the first eight bytes, then anything; a write is checked for that.
type vast struct {
	*disk
	badWrites, written int64
	mu                 sync.Mutex
}

func newVast(size int64) *vast {
	v := &vast{disk: newDisk(size)}
	v.info.FUA = store.Native
	return v
}

func (v *vast) ReadAt(_ context.Context, p []byte, off int64) error {
	binary.BigEndian.PutUint64(p, uint64(off>>20))
	return nil
}

func (v *vast) WriteAt(_ context.Context, p []byte, off int64, _ store.Flags) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.written += int64(len(p))
	if binary.BigEndian.Uint64(p) != uint64(off>>20) {
		v.badWrites++
	}
	return nil
}

// blocker stops calls until it is released.
type blocker struct {
	entered chan diskCall
	release func()
	free    chan struct{}
}

func newBlocker() *blocker {
	b := &blocker{entered: make(chan diskCall, 4096), free: make(chan struct{})}
	b.release = sync.OnceFunc(func() { close(b.free) })
	return b
}

func (b *blocker) wait(c diskCall) {
	b.entered <- c
	<-b.free
}

// block stops every call of one kind at or behind off.
func (d *disk) block(t *testing.T, op string, off int64) *blocker {
	b := newBlocker()
	t.Cleanup(b.release)
	d.on(func(c diskCall) error {
		if c.op == op && c.off >= off {
			b.wait(c)
		}
		return nil
	})
	return b
}

// open makes an export that is closed when the test ends, after its sessions.
func open(t testing.TB, s store.Store) *export.Export { return openWith(t, s, export.Options{}) }

func openWith(t testing.TB, s store.Store, options export.Options) *export.Export {
	t.Helper()
	e, err := export.Open(context.Background(), s, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return e
}

// pattern has no zero in it, and a length that no block or piece is a multiple of.
var pattern = func() []byte {
	b := make([]byte, 65521)
	for i := range b {
		b[i] = byte(i%251) ^ byte(i>>8) | 1
	}
	return b
}()

// numbered returns n bytes that differ from place to place and are never zero.
func numbered(n int) []byte { return bytes.Repeat(pattern, n/len(pattern)+1)[:n] }
