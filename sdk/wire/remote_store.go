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
	backend  backendv1.BackendClient
	disk     uint64
	info     store.Info
	underWay budget
	lease    *os.File // until TakeLease; may be nil
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
	request := &backendv1.OpenRequest{
		Location: []byte(disk.Location),
		ReadOnly: disk.ReadOnly,
		Options:  disk.Options,
		Lanes:    []string{LaneRPC},
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
	s := &remoteStore{backend: backend, disk: r.GetDisk(), underWay: budget{free: maxUnderWay}}
	s.info, err = infoFromProto(r.GetInfo())
	if err == nil && r.GetLane() != LaneRPC {
		err = fmt.Errorf("the plugin chose lane %.40q, which it was not offered", r.GetLane())
	}
	if err == nil && r.GetLease() != 0 && descriptors != nil {
		s.lease, err = receiveLease(ctx, descriptors, r.GetLease())
	}
	if err != nil {
		_ = s.Close() // or its lock would outlast the refusal
		return nil, err
	}
	return s, nil
}

// receiveLease waits for the descriptor that an answer announced.
func receiveLease(ctx context.Context, descriptors *DescriptorChannel, token uint64) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, descriptorWait)
	defer cancel()
	lease, err := descriptors.Receive(ctx, token)
	if err != nil {
		return nil, fmt.Errorf("the plugin announced a lease that did not come: %w", err)
	}
	return lease, nil
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
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	r, err := s.backend.Close(ctx, &backendv1.CloseRequest{Disk: s.disk})
	err = callError(ctx, err, r.GetError())
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the plugin did not close the disk within %v; it hangs, or a request does: %w", closeWait, err)
	}
	return err
}
