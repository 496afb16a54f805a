// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"testing"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/store"
)

// failFlushes makes every flush of the source fail.
func failFlushes(o *origin) {
	fail := func() error { return syscall.EIO }
	o.disk.flush.Store(&fail)
}

func wantUntold(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, syscall.EIO) {
		t.Errorf("the flush returned %v", err)
	}
}

// A client whose next flush would succeed at the disk's new home, although its writes
// are lost, is told before.
func TestNothingStartsBeforeClientsKnowOfALoss(t *testing.T) {
	o, d := pair(t, listens)
	knows, other := o.newClient(), o.newClient()
	failFlushes(o)
	wantUntold(t, knows.flush())
	reason(t, o.source.Start(t.Context(), Order{To: d.address}), WordsLoss, "1 of the clients")
	if o.dials.Load() != 0 {
		t.Error("the destination was asked all the same")
	}
	must(t, o.source.Start(t.Context(), Order{To: d.address, Rehearse: true}))
	if outcome, err := o.wait(); err != nil || outcome.Kind != Rehearsed {
		t.Errorf("the rehearsal ended with %+v, %v", outcome, err)
	}
	wantUntold(t, other.flush())
	o.start(Order{To: d.address})
	o.migrated()
	d.equals(o)
}

// The loss comes to light at the last moment before the hold.
func TestLossOnTheWayKeepsTheDiskUntilClientsKnow(t *testing.T) {
	for name, lose := range map[string]func(o *origin, knows *user){
		"a flush fails": func(o *origin, knows *user) {
			failFlushes(o)
			_ = knows.flush()
		},
		"the backend crashes": func(o *origin, knows *user) {
			_ = knows.write(0, []byte{1})
			o.export.Restarted()
			_ = knows.flush()
		},
	} {
		t.Run(name, func(t *testing.T) {
			o, d := pair(t, listens)
			o.volatile()
			o.fill(0, mib, 1)
			knows, other, prepared := o.newClient(), o.newClient(), prepares(d)
			var once sync.Once
			whenFlushed(o, d, func() { once.Do(func() { lose(o, knows) }) })
			o.start(Order{To: d.address})
			eventually(t, "the loss to be in the way", func() bool { return errors.Is(o.source.Status().LastError, errUntold) })
			must(t, knows.write(0, []byte{2}))
			for range 3 { // it looks again
				pass := o.source.Status().Pass
				eventually(t, "the next pass", func() bool { return o.source.Status().Pass > pass })
			}
			if s := o.source.Status(); prepared.Load() != 0 || s.Attempt != 1 || !s.Running {
				t.Errorf("%d PREPAREs, status is %+v", prepared.Load(), s)
			}
			d.doesNotOwn()
			wantUntold(t, other.flush())
			if outcome := o.migrated(); outcome.Attempts != 1 {
				t.Errorf("it took %d attempts", outcome.Attempts)
			}
			d.equals(o)
		})
	}
}

// Nobody flushes but the migration.
func TestWriteBackThatFailedUnnoticedIsLookedFor(t *testing.T) {
	o, d := pair(t, listens)
	client, prepared := o.newClient(), prepares(d)
	must(t, client.write(0, []byte{1}))
	failFlushes(o)
	o.start(Order{To: d.address})
	eventually(t, "the loss to be in the way", func() bool { return errors.Is(o.source.Status().LastError, errUntold) })
	if prepared.Load() != 0 {
		t.Errorf("%d PREPAREs", prepared.Load())
	}
	d.doesNotOwn()
	wantUntold(t, client.flush())
	o.migrated()
	d.equals(o)
}

// volatileStore loses in a crash what was not flushed.
type volatileStore struct{ store.Store }

func (s volatileStore) Info() store.Info {
	info := s.Store.Info()
	info.Survives = store.SurvivesFlushed
	return info
}

// volatile gives the source a disk of which only flushed writes survive a crash.
func (o *origin) volatile() {
	size := o.export.Size()
	must(o.t, o.export.Close(context.Background()))
	o.source.Close()
	o.disk = &watchedStore{Store: volatileStore{memstore.New(size)}}
	var err error
	o.export, err = export.Open(context.Background(), o.disk, export.Options{})
	must(o.t, err)
	o.open(o.records)
}
