// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/fdstore"
	"github.com/flexnbd/flexnbd/sdk/store"
)

// lending is a traced disk that lends its memory, and takes it back when told to.
type lending struct {
	*traced
	disk  *fdstore.Store
	bytes *movable
	moves bool // to this process's memory, once they were taken back

	fifo    *os.File
	revoker sync.WaitGroup
	cancel  context.CancelFunc
}

var (
	_ store.Leaser = (*lending)(nil)
	_ store.Lender = (*lending)(nil)
)

// lend puts a file in memory behind t: the lease's, if there is one.
func lend(t *traced, fifo string, moves bool, size int64, lease *os.File) (store.Store, error) {
	disk, err := memory(size, lease)
	if err != nil {
		return nil, err
	}
	l := &lending{traced: t, disk: disk, bytes: &movable{info: disk.Info(), at: disk}, moves: moves}
	t.Store = l.bytes
	// Open for writing as well, it has no end-of-file, and opening does not wait;
	// open without blocking, closing it ends a read.
	if l.fifo, err = os.OpenFile(fifo, os.O_RDWR|syscall.O_NONBLOCK, 0); err != nil {
		return nil, errors.Join(err, disk.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	l.revoker.Go(func() { l.revoke(ctx) })
	return l, nil
}

func memory(size int64, lease *os.File) (*fdstore.Store, error) {
	if lease != nil {
		return fdstore.Reopen(lease, "memory", fdstore.Options{})
	}
	fd, err := unix.MemfdCreate("traced", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "memory")
	if err := f.Truncate(size); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	disk, err := fdstore.New(f, fdstore.Options{})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return disk, nil
}

// revoke waits for the line. There is nobody to tell of an error but the trace.
func (l *lending) revoke(ctx context.Context) {
	lines := bufio.NewReader(l.fifo)
	if _, err := lines.ReadString('\n'); err != nil {
		return // the disk is being closed
	}
	_ = l.say("revoke")
	if err := l.disk.Lend().Revoke(ctx); err != nil {
		_ = l.say("not revoked: %v", err)
		return
	}
	_ = l.say("revoked")
	if !l.moves {
		return
	}
	if err := l.bytes.move(l.disk); err != nil {
		_ = l.say("not moved: %v", err)
		return
	}
	_ = l.say("moved")
	if _, err := lines.ReadString('\n'); err != nil {
		return
	}
	if err := spoil(l.disk); err != nil {
		_ = l.say("not spoilt: %v", err)
		return
	}
	_ = l.say("spoilt")
}

// Lease implements [store.Leaser].
func (l *lending) Lease() *os.File { return l.disk.Lease() }

// Lend implements [store.Lender].
func (l *lending) Lend() *store.Loan { return l.disk.Lend() }

// Close also ends the wait for the line.
func (l *lending) Close() error {
	l.cancel()
	err := l.fifo.Close()
	l.revoker.Wait()
	err = errors.Join(err, l.traced.Close())
	if l.bytes.at != store.Store(l.disk) {
		err = errors.Join(err, l.disk.Close())
	}
	return err
}
