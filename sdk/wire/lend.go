// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flexnbd/flexnbd/sdk/store"
	backendv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/backend/v1"
)

// lend picks the first of the lanes that d can do. For the file lane it sends the
// loan of s, which is d's store or behind it. A loan that is not taken is returned
// at once, so that the store never waits for it.
func (b *backendServer) lend(d *servedDisk, s store.Store, lanes []string) (*backendv1.OpenResponse, error) {
	loan := loanOf(s)
	var not error // why there is no file lane
	for _, lane := range lanes {
		if lane == LaneFile {
			var token uint64
			if token, not = b.sendLoan(d, loan); not == nil {
				d.loan = loan
				return &backendv1.OpenResponse{Lane: LaneFile, Loan: token}, nil
			}
		}
		if lane == LaneRing && b.descriptors != nil {
			returnLoan(loan)
			return &backendv1.OpenResponse{Lane: LaneRing}, nil
		}
		if lane == LaneRPC {
			break
		}
	}
	returnLoan(loan)
	if len(lanes) == 0 || slices.Contains(lanes, LaneRPC) {
		return &backendv1.OpenResponse{Lane: LaneRPC}, nil
	}
	if not != nil {
		return nil, fmt.Errorf("this backend has no file lane: %w", not)
	}
	return nil, fmt.Errorf("this backend has no lane of those that it was offered (%.100s): %w", strings.Join(lanes, ", "), store.ErrNotSupported)
}

// returnLoan returns what was not lent, if there is anything.
func returnLoan(loan *store.Loan) {
	if loan != nil {
		loan.Return()
	}
}

// loanOf returns what s lends, or nil.
func loanOf(s store.Store) *store.Loan {
	if lender, ok := s.(store.Lender); ok {
		return lender.Lend()
	}
	return nil
}

// sendLoan sends a duplicate of the lent descriptor. An error says why d can't
// have the file lane.
//
// With package align in front of the store, loans stay where they are: it changes
// parts of a block by writing all of it back, and would undo what the core writes
// beside it meanwhile.
func (b *backendServer) sendLoan(d *servedDisk, loan *store.Loan) (token uint64, err error) {
	switch {
	case loan == nil:
		return 0, fmt.Errorf("it does not lend its descriptor: %w", store.ErrNotSupported)
	case loanOf(d.store) != loan:
		return 0, fmt.Errorf("it refuses requests that are no multiple of %d bytes: %w", d.store.Info().MinBlock, store.ErrNotSupported)
	case b.descriptors == nil:
		return 0, fmt.Errorf("its process was started without a descriptor channel: %w", store.ErrNotSupported)
	case loan.File() == nil:
		return 0, errors.New("its loan is of no file")
	}
	return b.descriptors.Send(loan.File())
}

// returnLoan tells the store that the descriptor is not in use any more, if it was
// lent. It may be called again.
//
// That the host's end of the line closes is no reason to: whoever borrowed goes on
// while a new process is being started. This one ends then.
func (d *servedDisk) returnLoan() { returnLoan(d.loan) }

// AwaitRevocation is no call that Close waits for: it is the other way round.
func (b *backendServer) AwaitRevocation(ctx context.Context, r *backendv1.AwaitRevocationRequest) (*backendv1.AwaitRevocationResponse, error) {
	b.mu.Lock()
	d := b.disks[r.GetDisk()]
	b.mu.Unlock()
	switch {
	case d == nil:
		return nil, status.Errorf(codes.NotFound, "disk %d is not open", r.GetDisk())
	case d.loan == nil:
		return nil, lentNothing(r.GetDisk())
	}
	select {
	case <-d.loan.Revoked():
		return &backendv1.AwaitRevocationResponse{}, nil
	case <-d.closing:
		return nil, status.Errorf(codes.NotFound, "disk %d was closed", r.GetDisk())
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

// ReturnLoan is the host's word that it uses the descriptor no more.
func (b *backendServer) ReturnLoan(_ context.Context, r *backendv1.ReturnLoanRequest) (*backendv1.ReturnLoanResponse, error) {
	d, leave, err := b.enter(r.GetDisk())
	if err != nil {
		return nil, err
	}
	defer leave()
	if d.loan == nil {
		return nil, lentNothing(r.GetDisk())
	}
	d.returnLoan()
	return &backendv1.ReturnLoanResponse{}, nil
}

func lentNothing(disk uint64) error {
	return status.Errorf(codes.FailedPrecondition, "disk %d has lent nothing", disk)
}
