// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/flexnbd/flexnbd/sdk/store"
	backendv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/backend/v1"
)

// LentTaker is a remote Store whose backend may have lent its descriptor
// ([store.Lender]), which makes the disk's lane the file lane.
type LentTaker interface {
	// TakeLent returns the loan, which belongs to the caller from then on, or
	// nil. The caller ends it, and waits for that, before it closes the disk; the
	// lock that a backend holds with the same descriptor outlives the disk
	// otherwise.
	//
	// refused says why a loan was not taken, though the plugin and the caller
	// were for it; the disk's lane is the rpc lane then.
	TakeLent() (l *Lent, refused error)
}

// TakeLent implements [LentTaker].
func (s *remoteStore) TakeLent() (l *Lent, refused error) {
	l = s.lent
	s.lent = nil
	return l, s.refused
}

// errNoChannel is for plugins that were not started by the host.
var errNoChannel = errors.New("the plugin was started without a descriptor channel")

// offer returns the lanes that may be used, and why one that was asked for may
// not.
func offer(lanes []string, descriptors *DescriptorChannel) (offered []string, refused error, err error) {
	if len(lanes) == 0 {
		return []string{LaneRPC}, nil, nil
	}
	for _, lane := range lanes {
		switch {
		case lane != LaneRPC && lane != LaneFile && lane != LaneRing:
			return nil, nil, fmt.Errorf("there is no lane %.40q: %w", lane, store.ErrInvalid)
		case lane != LaneRPC && descriptors == nil:
			refused = errNoChannel
		default:
			offered = append(offered, lane)
		}
	}
	if len(offered) == 0 {
		return nil, nil, fmt.Errorf("the only lane here is %s: %w", LaneRPC, refused)
	}
	return offered, refused, nil
}

// acceptLane takes what an answer says about the lane: loan is the descriptor that
// came, or arrival says why none did. An error refuses the disk.
func (s *remoteStore) acceptLane(ctx context.Context, lane string, offered []string, readOnly bool, loan *os.File, arrival error) error {
	if !slices.Contains(offered, lane) {
		discard(loan)
		if lane == LaneRPC {
			return fmt.Errorf("the plugin can do lane %q only, and was to do %s: %w", lane, strings.Join(offered, ", "), store.ErrNotSupported)
		}
		return fmt.Errorf("the plugin chose lane %.40q, which it was not offered", lane)
	}
	if lane != LaneFile {
		discard(loan)
		s.rings = lane == LaneRing
		return nil
	}
	why := arrival
	if why == nil && loan == nil {
		why = errors.New("the plugin chose the file lane and lent no descriptor")
	} else if why == nil {
		if err := checkLoan(loan, s.info, readOnly); err != nil {
			why = fmt.Errorf("the plugin lent a descriptor, but %w", err)
		}
	}
	if why == nil {
		s.lent = NewLent(loan, s.awaitRevocation, s.returnLoan)
		return nil
	}
	discard(loan)
	return s.refuse(ctx, why, slices.Contains(offered, LaneRPC))
}

// refuse goes over to the rpc lane, if it may, and tells the plugin.
func (s *remoteStore) refuse(ctx context.Context, why error, rpc bool) error {
	if !rpc || ctx.Err() != nil || errors.Is(why, ErrPluginGone) {
		return why
	}
	if err := s.returnLoan(ctx); err != nil {
		if ctx.Err() != nil || errors.Is(err, ErrPluginGone) {
			return err
		}
		why = fmt.Errorf("%w; and it can't be given back: %w", why, err)
	}
	s.refused = why
	return nil
}

func discard(f *os.File) {
	if f != nil {
		_ = f.Close()
	}
}

// awaitRevocation is the call of [Lent.AwaitRevocation].
func (s *remoteStore) awaitRevocation(ctx context.Context) error {
	_, err := s.backend.AwaitRevocation(ctx, &backendv1.AwaitRevocationRequest{Disk: s.disk})
	return callError(ctx, err, nil)
}

// returnLoan is the call of [Lent.GiveBack].
func (s *remoteStore) returnLoan(ctx context.Context) error {
	_, err := s.backend.ReturnLoan(ctx, &backendv1.ReturnLoanRequest{Disk: s.disk})
	return callError(ctx, err, nil)
}
