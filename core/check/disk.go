// SPDX-License-Identifier: GPL-3.0-or-later

package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/host"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/storetest"
	"github.com/flexnbd/flexnbd/sdk/wire"
	"github.com/flexnbd/flexnbd/sdk/wire/wiretest"
)

// overLane is what a session sees of a disk: reads, writes and punches take the lane, the
// rest is called.
func overLane(d *host.Disk) store.Store {
	return wiretest.OverQueue(d, func(sink wire.Sink) wire.Queue { return d.NewQueue(context.Background(), sink) })
}

// watched is a disk for the suite, over its lane, that fails its clause if its process
// was lost meanwhile: restarts hide that from whoever only reads and writes.
func (r *run) watched(t testing.TB, d *host.Disk, remove func() error, lane string) store.Store {
	w := &watched{Store: overLane(d), disk: d}
	stop := context.AfterFunc(t.Context(), func() {
		if errors.Is(context.Cause(t.Context()), storetest.ErrGivenUp) {
			w.givenUp.Store(true)
			_ = d.Abandon() // its Close has the error
		}
	})
	t.Cleanup(func() { // the last one: the suite closes its disks before
		stop()
		if err := remove(); err != nil {
			t.Errorf("removing the disk: %v", err)
		}
	})
	if lane == wire.LaneFile {
		return &lender{watched: w}
	}
	return w
}

type watched struct {
	store.Store
	disk    *host.Disk
	givenUp atomic.Bool
}

// Close implements [store.Store].
func (w *watched) Close() error {
	var lost error
	if n, state := w.disk.Restarts(), w.disk.State(); (n > 0 || state != "serving") && !w.givenUp.Load() {
		lost = fmt.Errorf("its process was lost while the disk was in use, %d others took over, and the disk is %s now; the log says how", n, state)
	}
	return errors.Join(lost, w.Store.Close())
}

// lender is a disk whose descriptor the suite may use as well, beside the lane.
type lender struct {
	*watched

	once sync.Once
	loan *store.Loan
}

var _ store.Lender = (*lender)(nil)

// Lend returns a loan of a duplicate. It is never taken back.
func (l *lender) Lend() *store.Loan {
	l.once.Do(func() {
		lent := l.disk.Lent()
		if lent == nil || !lent.Enter() {
			return
		}
		defer lent.Leave()
		if fd, err := unix.FcntlInt(uintptr(lent.FD()), unix.F_DUPFD_CLOEXEC, 3); err == nil {
			l.loan = store.NewLoan(os.NewFile(uintptr(fd), "lent"))
		}
	})
	return l.loan
}

// Close implements [store.Store].
func (l *lender) Close() error {
	if l.loan != nil {
		_ = l.loan.File().Close() // or the disk's lock would outlast it
	}
	return l.watched.Close()
}

// blank makes zero what the suite uses of a disk, if need be by writing.
func blank(ctx context.Context, s store.Store) error {
	used := min(s.Info().Size, storetest.LargestDisk)
	if err := s.PunchHole(ctx, 0, used, 0); err != nil {
		return err
	}
	const sample = 1 << 20 // most clauses use less
	p := make([]byte, min(used, sample))
	if err := s.ReadAt(ctx, p, 0); err != nil {
		return err
	}
	if bytes.Count(p, []byte{0}) == len(p) {
		return nil
	}
	clear(p)
	for off := int64(0); off < used; off += int64(len(p)) {
		if err := s.WriteAt(ctx, p[:min(int64(len(p)), used-off)], off, 0); err != nil {
			return err
		}
	}
	return nil
}

// blankIt does so before the disk is opened read-only.
func (r *run) blankIt(ctx context.Context) error {
	d, remove, err := r.open(ctx, r.fixed, wire.LaneRPC, false)
	if err != nil {
		return err
	}
	return errors.Join(blank(ctx, d), d.Close(), remove())
}
