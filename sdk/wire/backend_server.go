// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flexnbd/flexnbd/sdk/align"
	"github.com/flexnbd/flexnbd/sdk/option"
	"github.com/flexnbd/flexnbd/sdk/store"
	backendv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/backend/v1"
)

// Disk says which disk to open.
type Disk struct {
	// Location is what --file says: a path, or what the backend takes instead.
	Location string
	// ReadOnly: never change the disk, and share it with other readers.
	ReadOnly bool
	// Options are the key=value options of --backend. A backend gets them complete,
	// with the defaults of those that were not given.
	Options option.Values
	// Lease is nil at first. After a crash of the backend's process it is what
	// the crashed one's Store gave (see [store.Leaser]): the backend uses it and
	// does not open Location again. It belongs to the backend from then on; should
	// Open fail, it is closed if it is not yet.
	Lease *os.File
	// Lanes is the host's: the lanes that its data may take, best first, of
	// [LaneFile], [LaneRing] and [LaneRPC]. None means LaneRPC alone. A backend never sees it.
	Lanes []string
}

// Opener opens a disk. The Store lives on after ctx has ended.
type Opener func(ctx context.Context, disk Disk) (store.Store, error)

// maxPayload is the most bytes that one Read or Write call of the rpc lane
// carries. gRPC's own limit is set a little higher.
const maxPayload = 64 << 20

// maxDisks bounds the disks that are open at once in one plugin.
const maxDisks = 256

// backendServer is the plugin's end of the rpc lane.
type backendServer struct {
	backendv1.UnimplementedBackendServer
	open        Opener
	descriptors *DescriptorChannel // may be nil

	mu    sync.Mutex
	last  uint64
	disks map[uint64]*servedDisk
}

type servedDisk struct {
	store   store.Store
	size    int64
	loan    *store.Loan   // with the file lane
	rings   rings         // with the ring lane
	closing chan struct{} // closed when Close has come
	calls   sync.RWMutex  // held for reading by each call but AwaitRevocation, for writing by Close
}

func newBackendServer(open Opener, descriptors *DescriptorChannel) *backendServer {
	return &backendServer{open: open, descriptors: descriptors, disks: map[uint64]*servedDisk{}}
}

// enter finds a disk and keeps it open until the returned function is called.
func (b *backendServer) enter(id uint64) (*servedDisk, func(), error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	d := b.disks[id]
	if d == nil || !d.calls.TryRLock() { // not there, or being closed
		return nil, nil, status.Errorf(codes.NotFound, "disk %d is not open", id)
	}
	return d, d.calls.RUnlock, nil
}

// inside checks a range, so that a Store may rely on it.
func (d *servedDisk) inside(off, length int64) error {
	if off < 0 || length < 0 || length > d.size || off > d.size-length {
		return status.Errorf(codes.OutOfRange, "%d bytes at %d are outside the disk of %d bytes", length, off, d.size)
	}
	return nil
}

func (b *backendServer) Open(ctx context.Context, r *backendv1.OpenRequest) (*backendv1.OpenResponse, error) {
	lease, err := b.receiveLease(ctx, r.GetLease())
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	s, err := b.open(ctx, Disk{Location: string(r.GetLocation()), ReadOnly: r.GetReadOnly(), Options: r.GetOptions(), Lease: lease})
	if err != nil {
		if lease != nil {
			_ = lease.Close() // or the lock outlives the failure; whoever took it may have closed it
		}
		return &backendv1.OpenResponse{Error: errorToProto(err)}, nil
	}
	if err := ctx.Err(); err != nil { // nobody is left to close it
		_ = s.Close()
		return nil, status.FromContextError(err).Err()
	}
	info := s.Info()
	if err := info.Check(); err != nil {
		_ = s.Close()
		return &backendv1.OpenResponse{Error: errorToProto(fmt.Errorf("the backend opened %q, but its facts are wrong: %w", r.GetLocation(), err))}, nil
	}
	d := &servedDisk{store: align.New(s), size: info.Size, closing: make(chan struct{})}
	answer, err := b.lend(d, s, r.GetLanes())
	if err != nil {
		_ = d.close()
		return &backendv1.OpenResponse{Error: errorToProto(err)}, nil
	}
	if answer.Lease, err = b.sendLease(s); err != nil {
		_ = d.close()
		return nil, status.Error(codes.Internal, err.Error())
	}
	answer.Info = infoToProto(d.store.Info())

	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.disks) >= maxDisks {
		_ = d.close()
		return nil, status.Errorf(codes.ResourceExhausted, "%d disks are open already", maxDisks)
	}
	b.last++
	b.disks[b.last] = d
	answer.Disk = b.last
	return answer, nil
}

// receiveLease returns the descriptor that the host announces, or nil.
func (b *backendServer) receiveLease(ctx context.Context, token uint64) (*os.File, error) {
	if token == 0 {
		return nil, nil
	}
	if b.descriptors == nil {
		return nil, errors.New("a lease can't be received without a descriptor channel")
	}
	ctx, cancel := context.WithTimeout(ctx, descriptorWait)
	defer cancel()
	return b.descriptors.Receive(ctx, token)
}

// sendLease sends a duplicate of the store's lease, if it has one, and returns
// its token.
func (b *backendServer) sendLease(s store.Store) (uint64, error) {
	leaser, ok := s.(store.Leaser)
	if !ok || b.descriptors == nil {
		return 0, nil
	}
	return b.descriptors.Send(leaser.Lease())
}

func (b *backendServer) Read(ctx context.Context, r *backendv1.ReadRequest) (*backendv1.ReadResponse, error) {
	d, leave, err := b.enter(r.GetDisk())
	if err != nil {
		return nil, err
	}
	defer leave()
	if r.GetLength() > maxPayload {
		return nil, status.Errorf(codes.InvalidArgument, "a read of %d bytes is over %d", r.GetLength(), maxPayload)
	}
	if err := d.inside(r.GetOffset(), int64(r.GetLength())); err != nil {
		return nil, err
	}
	data := make([]byte, r.GetLength())
	if err := d.store.ReadAt(ctx, data, r.GetOffset()); err != nil {
		return &backendv1.ReadResponse{Error: errorToProto(err)}, nil
	}
	return &backendv1.ReadResponse{Data: data}, nil
}

func (b *backendServer) Write(ctx context.Context, r *backendv1.WriteRequest) (*backendv1.WriteResponse, error) {
	d, leave, err := b.enter(r.GetDisk())
	if err != nil {
		return nil, err
	}
	defer leave()
	if len(r.GetData()) > maxPayload {
		return nil, status.Errorf(codes.InvalidArgument, "a write of %d bytes is over %d", len(r.GetData()), maxPayload)
	}
	if err := d.inside(r.GetOffset(), int64(len(r.GetData()))); err != nil {
		return nil, err
	}
	err = d.store.WriteAt(ctx, r.GetData(), r.GetOffset(), store.Flags(r.GetFlags()))
	return &backendv1.WriteResponse{Error: errorToProto(err)}, nil
}

func (b *backendServer) PunchHole(ctx context.Context, r *backendv1.PunchHoleRequest) (*backendv1.PunchHoleResponse, error) {
	d, leave, err := b.enter(r.GetDisk())
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := d.inside(r.GetOffset(), r.GetLength()); err != nil {
		return nil, err
	}
	err = d.store.PunchHole(ctx, r.GetOffset(), r.GetLength(), store.Flags(r.GetFlags()))
	return &backendv1.PunchHoleResponse{Error: errorToProto(err)}, nil
}

func (b *backendServer) Extents(ctx context.Context, r *backendv1.ExtentsRequest) (*backendv1.ExtentsResponse, error) {
	d, leave, err := b.enter(r.GetDisk())
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := d.inside(r.GetOffset(), r.GetLength()); err != nil {
		return nil, err
	}
	extents, err := d.store.Extents(ctx, r.GetOffset(), r.GetLength())
	if err != nil {
		return &backendv1.ExtentsResponse{Error: errorToProto(err)}, nil
	}
	return &backendv1.ExtentsResponse{Extents: extentsToProto(extents)}, nil
}

func (b *backendServer) Flush(ctx context.Context, r *backendv1.FlushRequest) (*backendv1.FlushResponse, error) {
	d, leave, err := b.enter(r.GetDisk())
	if err != nil {
		return nil, err
	}
	defer leave()
	return &backendv1.FlushResponse{Error: errorToProto(d.store.Flush(ctx))}, nil
}

func (b *backendServer) Close(_ context.Context, r *backendv1.CloseRequest) (*backendv1.CloseResponse, error) {
	b.mu.Lock()
	d := b.disks[r.GetDisk()]
	delete(b.disks, r.GetDisk())
	b.mu.Unlock()
	if d == nil {
		return nil, status.Errorf(codes.NotFound, "disk %d is not open", r.GetDisk())
	}
	close(d.closing)
	d.returnLoan()
	d.calls.Lock() // the calls under way end first
	return &backendv1.CloseResponse{Error: errorToProto(d.close())}, nil
}

// close closes a disk that is in nobody's hands. The loan comes first: the store's
// Close may wait for somebody who revokes it.
func (d *servedDisk) close() error {
	d.rings.close()
	d.returnLoan()
	return d.store.Close()
}
