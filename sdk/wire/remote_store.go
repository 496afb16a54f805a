// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
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
type remoteStore struct {
	backend backendv1.BackendClient
	disk    uint64
	info    store.Info
}

var _ store.Store = (*remoteStore)(nil)

func openRemote(ctx context.Context, backend backendv1.BackendClient, disk Disk) (store.Store, error) {
	if err := sendable(disk); err != nil {
		return nil, err
	}
	r, err := backend.Open(ctx, &backendv1.OpenRequest{
		Location: disk.Location,
		ReadOnly: disk.ReadOnly,
		Options:  disk.Options,
		Lanes:    []string{LaneRPC},
	})
	if err := callError(ctx, err, r.GetError()); err != nil {
		return nil, err
	}
	s := &remoteStore{backend: backend, disk: r.GetDisk()}
	s.info, err = infoFromProto(r.GetInfo())
	if err == nil && r.GetLane() != LaneRPC {
		err = fmt.Errorf("the plugin chose lane %.40q, which it was not offered", r.GetLane())
	}
	if err != nil {
		_ = s.Close() // or its lock would outlast the refusal
		return nil, err
	}
	return s, nil
}

// sendable returns nil if the wire, whose strings are UTF-8, can carry the
// disk's name and options.
func sendable(d Disk) error {
	ok := utf8.ValidString(d.Location)
	for key, value := range d.Options {
		ok = ok && utf8.ValidString(key) && utf8.ValidString(value)
	}
	if !ok {
		return fmt.Errorf("disk %.200q with options %.200q is not valid UTF-8, which plugins need; rename it or make a symbolic link to it: %w", d.Location, d.Options, store.ErrInvalid)
	}
	return nil
}

func (s *remoteStore) Info() store.Info { return s.info }

func (s *remoteStore) ReadAt(ctx context.Context, p []byte, off int64) error {
	for len(p) > 0 {
		n := min(len(p), maxPayload)
		r, err := s.backend.Read(ctx, &backendv1.ReadRequest{Disk: s.disk, Offset: off, Length: uint32(n)})
		if err := callError(ctx, err, r.GetError()); err != nil {
			return err
		}
		if len(r.GetData()) != n {
			return fmt.Errorf("the plugin answered a read of %d bytes with %d: %w", n, len(r.GetData()), store.ErrIO)
		}
		copy(p, r.GetData())
		p, off = p[n:], off+int64(n)
	}
	return ctx.Err()
}

func (s *remoteStore) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	for len(p) > 0 {
		n := min(len(p), maxPayload)
		r, err := s.backend.Write(ctx, &backendv1.WriteRequest{Disk: s.disk, Offset: off, Data: p[:n], Flags: uint32(flags)})
		if err := callError(ctx, err, r.GetError()); err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
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
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	r, err := s.backend.Close(ctx, &backendv1.CloseRequest{Disk: s.disk})
	err = callError(ctx, err, r.GetError())
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the plugin did not close the disk within %v; it hangs, or a request does: %w", closeWait, err)
	}
	return err
}
