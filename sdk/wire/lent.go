// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Lent is a descriptor that a backend has lent to this process (see
// [store.Lender]), from the borrower's side: whoever is about to use it enters,
// and leaves when done.
//
//	    entering      End           the last one leaves
//	lent -------> lent -----> ending -------------------> over: closed
//
// All methods may be called from many goroutines.
type Lent struct {
	file *os.File
	fd   int

	// word counts those inside, in steps of lentOne, above the bit that says
	// that nobody may enter any more.
	word atomic.Int64
	over chan struct{} // closed when it has ended and nobody is inside

	awaitRevocation, giveBack func(context.Context) error // calls to the plugin
}

const (
	lentEnding = 1
	lentOne    = 2
)

// NewLent takes over f. The functions call the plugin that f belongs to:
// awaitRevocation returns nil when it wants f back, giveBack tells it that f is not
// in use any more.
func NewLent(f *os.File, awaitRevocation, giveBack func(context.Context) error) *Lent {
	return &Lent{file: f, fd: int(f.Fd()), over: make(chan struct{}), awaitRevocation: awaitRevocation, giveBack: giveBack}
}

// FD returns the descriptor. It may be used between Enter and Leave, with explicit
// offsets only: its own offset is shared with the plugin.
func (l *Lent) FD() int { return l.fd }

// Enter says whether the descriptor may be used. The caller then owes a Leave.
func (l *Lent) Enter() bool {
	if l.word.Add(lentOne)&lentEnding == 0 {
		return true
	}
	l.Leave()
	return false
}

// Share enters once more for somebody who is inside.
func (l *Lent) Share() { l.word.Add(lentOne) }

// Leave ends one stay.
func (l *Lent) Leave() {
	switch word := l.word.Add(-lentOne); {
	case word < 0:
		panic("wire: more left a lent descriptor than had entered")
	case word == lentEnding:
		l.finish()
	}
}

// End lets nobody enter any more. It does not wait.
func (l *Lent) End() {
	if l.word.Or(lentEnding) == 0 {
		l.finish()
	}
}

// finish closes the descriptor, once: a refused Enter may come after the last one
// has left, and leaves too.
func (l *Lent) finish() {
	if l.word.CompareAndSwap(lentEnding, lentEnding|lentClosed) {
		_ = l.file.Close()
		close(l.over)
	}
}

// lentClosed is far above any count: with it word never equals lentEnding again.
const lentClosed = 1 << 62

// Ended is closed once the loan has ended and nobody is inside.
func (l *Lent) Ended() <-chan struct{} { return l.over }

// AwaitRevocation returns nil when the plugin wants the descriptor back, else
// why that can't be known any more: the context's error, [ErrPluginGone], or that
// the disk was closed or the plugin does not know the call.
func (l *Lent) AwaitRevocation(ctx context.Context) error { return l.awaitRevocation(ctx) }

// GiveBack ends the loan, waits until nobody is inside and tells the plugin. One
// that is gone gives [ErrPluginGone], and needs not be told. After any other error
// it may be called again.
func (l *Lent) GiveBack(ctx context.Context) error {
	l.End()
	select {
	case <-l.over:
	case <-ctx.Done():
		return fmt.Errorf("the descriptor is still in use: %w", ctx.Err())
	}
	return l.giveBack(ctx)
}

// ReadAt fills p with the bytes at off, for somebody who is inside. It waits for
// the device.
func (l *Lent) ReadAt(p []byte, off int64) error {
	for len(p) > 0 {
		n, err := unix.Pread(l.fd, p, off)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}
