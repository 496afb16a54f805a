// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"

	"github.com/flexnbd/flexnbd/sdk/store"
	backendv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/backend/v1"
)

// remoteStore is the host's end of the rpc lane: a Store whose bytes travel in
// gRPC calls. Its errors do not name the plugin; whoever started it does.
//
// Cancellation: a call that changes the disk must not take effect after it has
// returned, and gRPC cannot promise that of a cancelled call. So those calls,
// once sent, wait for their answer; killing the plugin ends them.
//
// Payload under way is bounded for the disk as a whole, since gRPC holds several
// copies of each message, in both processes: without it, a few clients with
// large requests would cost hundreds of MiB, and gain nothing by it.
type remoteStore struct {
	backend     backendv1.BackendClient
	disk        uint64
	descriptors *DescriptorChannel // may be nil
	info        store.Info
	underWay    *budget
	lease       *os.File // until TakeLease; may be nil
	lent        *Lent    // until TakeLent; may be nil
	refused     error    // see TakeLent
	rings       bool     // see OpenRing
}

// LeaseTaker is a remote Store whose backend may have given a lease
// ([store.Leaser]).
type LeaseTaker interface {
	// TakeLease returns the lease, which belongs to the caller from then on, or
	// nil.
	TakeLease() *os.File
}

// TakeLease implements [LeaseTaker].
func (s *remoteStore) TakeLease() *os.File {
	lease := s.lease
	s.lease = nil
	return lease
}

// maxUnderWay is the payload of one disk that may be in gRPC's hands at a time,
// in bytes: enough to keep several cores busy with the core's largest pieces. A
// single longer call counts as all of it.
const maxUnderWay = 8 << 20

var _ store.Store = (*remoteStore)(nil)

func openRemote(ctx context.Context, backend backendv1.BackendClient, descriptors *DescriptorChannel, disk Disk) (store.Store, error) {
	if err := sendable(disk); err != nil {
		return nil, err
	}
	lanes, refused, err := offer(disk.Lanes, descriptors)
	if err != nil {
		return nil, err
	}
	request := &backendv1.OpenRequest{
		Location: []byte(disk.Location),
		ReadOnly: disk.ReadOnly,
		Options:  disk.Options,
		Lanes:    lanes,
	}
	if disk.Lease != nil {
		token, err := descriptors.Send(disk.Lease)
		if err != nil {
			return nil, fmt.Errorf("the lease can't be passed on: %w", err)
		}
		request.Lease = token
	}
	r, err := backend.Open(ctx, request)
	if err := callError(ctx, err, r.GetError()); err != nil {
		return nil, err
	}
	s := &remoteStore{backend: backend, disk: r.GetDisk(), descriptors: descriptors, underWay: newBudget(maxUnderWay), refused: refused}
	if err := s.accept(ctx, r, descriptors, lanes, disk.ReadOnly); err != nil {
		_ = s.Close() // or its lock would outlast the refusal
		return nil, err
	}
	return s, nil
}

// accept checks an answer and takes what belongs to it. The descriptors come
// first, since they are on their way whatever else is wrong, and hold locks.
func (s *remoteStore) accept(ctx context.Context, r *backendv1.OpenResponse, descriptors *DescriptorChannel, lanes []string, readOnly bool) error {
	var leaseErr, infoErr error
	s.lease, leaseErr = receiveFor(ctx, descriptors, r.GetLease(), "a lease")
	loan, loanErr := receiveFor(ctx, descriptors, r.GetLoan(), "a loan")
	s.info, infoErr = infoFromProto(r.GetInfo())
	for _, err := range []error{infoErr, leaseErr} {
		if err != nil {
			discard(loan)
			return err
		}
	}
	return s.acceptLane(ctx, r.GetLane(), lanes, readOnly, loan, loanErr)
}

// receiveFor waits for the descriptor that an answer announced as what, if it did.
func receiveFor(ctx context.Context, descriptors *DescriptorChannel, token uint64, what string) (*os.File, error) {
	if token == 0 || descriptors == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, descriptorWait)
	defer cancel()
	f, err := descriptors.Receive(ctx, token)
	if err != nil {
		return nil, fmt.Errorf("the plugin announced %s that did not come: %w", what, err)
	}
	return f, nil
}

// sendable returns nil if the wire, whose strings are UTF-8, can carry the
// options.
func sendable(d Disk) error {
	for key, value := range d.Options {
		if !utf8.ValidString(key) || !utf8.ValidString(value) {
			return fmt.Errorf("option %.200q=%.200q is not valid UTF-8, which plugins need: %w", key, value, store.ErrInvalid)
		}
	}
	return nil
}

func (s *remoteStore) Info() store.Info { return s.info }

func (s *remoteStore) ReadAt(ctx context.Context, p []byte, off int64) error {
	for len(p) > 0 {
		n := min(len(p), maxPayload)
		if err := s.read(ctx, p[:n], off); err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return ctx.Err()
}

// read is one call.
func (s *remoteStore) read(ctx context.Context, p []byte, off int64) error {
	share := min(len(p), maxUnderWay)
	if err := s.underWay.take(ctx, share); err != nil {
		return err
	}
	defer s.underWay.give(share)
	r, err := s.backend.Read(ctx, &backendv1.ReadRequest{Disk: s.disk, Offset: off, Length: uint32(len(p))})
	if err := callError(ctx, err, r.GetError()); err != nil {
		return err
	}
	if len(r.GetData()) != len(p) {
		return fmt.Errorf("the plugin answered a read of %d bytes with %d: %w", len(p), len(r.GetData()), store.ErrIO)
	}
	copy(p, r.GetData())
	return nil
}

func (s *remoteStore) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for len(p) > 0 {
		n := min(len(p), maxPayload)
		if err := s.write(ctx, p[:n], off, flags); err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// write is one call. It can be cancelled until it is sent.
func (s *remoteStore) write(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	share := min(len(p), maxUnderWay)
	if err := s.underWay.take(ctx, share); err != nil {
		return err
	}
	defer s.underWay.give(share)
	ctx = context.WithoutCancel(ctx)
	r, err := s.backend.Write(ctx, &backendv1.WriteRequest{Disk: s.disk, Offset: off, Data: p, Flags: uint32(flags)})
	return callError(ctx, err, r.GetError())
}

func (s *remoteStore) PunchHole(ctx context.Context, off, length int64, flags store.Flags) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	r, err := s.backend.PunchHole(ctx, &backendv1.PunchHoleRequest{Disk: s.disk, Offset: off, Length: length, Flags: uint32(flags)})
	return callError(ctx, err, r.GetError())
}

func (s *remoteStore) Extents(ctx context.Context, off, length int64) ([]store.Extent, error) {
	r, err := s.backend.Extents(ctx, &backendv1.ExtentsRequest{Disk: s.disk, Offset: off, Length: length},
		grpc.MaxCallRecvMsgSize(maxExtents*maxExtentBytes))
	if err := callError(ctx, err, r.GetError()); err != nil {
		return nil, err
	}
	return extentsFromProto(off, r.GetExtents())
}

func (s *remoteStore) Flush(ctx context.Context) error {
	r, err := s.backend.Flush(ctx, &backendv1.FlushRequest{Disk: s.disk})
	return callError(ctx, err, r.GetError())
}

// closeWait bounds Close, which has no context: a plugin that hangs must not
// keep its host from ending.
const closeWait = 5 * time.Second

func (s *remoteStore) Close() error {
	if s.lease != nil {
		defer func() { _ = s.lease.Close() }()
	}
	if s.lent != nil { // nobody can be inside
		s.lent.End()
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	r, err := s.backend.Close(ctx, &backendv1.CloseRequest{Disk: s.disk})
	err = callError(ctx, err, r.GetError())
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the plugin did not close the disk within %v; it hangs, or a request does: %w", closeWait, err)
	}
	return err
}
