// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"os"
	"sync"
)

// Lender is a Store whose bytes lie in one regular file or block device, each at
// its own offset, and that lets the core read and write them there by itself: a
// request then costs a system call instead of a call to another process.
// PunchHole, Extents, Flush and writes with FUA still come to the Store, and so
// may any read or write.
//
// The descriptor has to be open for what the disk is open for, without O_APPEND
// and O_DIRECT, and the file as large as [Info.Size] says. The Store must be
// [Info.Replayable], and acknowledged writes must survive its process
// ([SurvivesAcknowledged]).
//
// The core writes beside calls to the Store, so these must change their own range
// only, and not write back what they found around it. For the same reason a Store
// that says [RefusesUnaligned] with a MinBlock of more than 1 is not asked for its
// loan. Flush covers what the core wrote: on the lent descriptor, fdatasync does.
// The core does not sync there, so that errors which the kernel tells once are left
// for the Store's own sync.
//
// A store that wraps a Lender lends only if it has the method Lend too; it then sees
// no read and no plain write any more. To embed a Lender, an *fdstore.Store say, is to
// have it: the core then goes past whatever the wrapper does to the bytes. So wrap it
// as a field, or embed it as a [Store].
//
// A loan outlives the process that gave it, until the disk has been opened in
// another: with a lease ([Leaser]), leave the bytes alone until that is done.
type Lender interface {
	Store
	// Lend returns the loan, the same one each time, or nil to lend nothing.
	Lend() *Loan
}

// Loan is a descriptor that a Store has lent and can take back.
//
// All methods may be called from many goroutines.
type Loan struct {
	file              *os.File
	revoked, returned chan struct{}
	revoking, giving  sync.Once
}

// NewLoan makes a loan of f, which stays the Store's own, to be closed by it.
func NewLoan(f *os.File) *Loan {
	return &Loan{file: f, revoked: make(chan struct{}), returned: make(chan struct{})}
}

// File returns the descriptor.
func (l *Loan) File() *os.File { return l.file }

// Revoke takes the descriptor back. After nil nothing is under way on it and
// nothing will be: every read and write comes to the Store. Until then both
// happen. The error is the context's, and then it is still in use; Revoke may be
// called again. It must not be called from inside a call to the Store.
//
// Bytes that were read before may still be on their way to a client, as pages of
// the page cache that the socket refers to (sendfile). So a Store that is going to
// put other bytes in their place punches the range first: that takes the pages out
// of the cache and leaves them to the client as they were.
func (l *Loan) Revoke(ctx context.Context) error {
	l.revoking.Do(func() { close(l.revoked) })
	select {
	case <-l.returned:
		return nil
	default:
	}
	select {
	case <-l.returned:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Revoked is closed once Revoke has been called. It is for whoever borrows.
func (l *Loan) Revoked() <-chan struct{} { return l.revoked }

// Return says that the borrower has stopped using the descriptor, or never began
// to. It is for whoever borrows.
func (l *Loan) Return() { l.giving.Do(func() { close(l.returned) }) }
