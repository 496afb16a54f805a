// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"os"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	backendv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/backend/v1"
	"github.com/flexnbd/flexnbd/sdk/wire/ring"
)

// maxRings bounds the rings that are open at once for one disk.
const maxRings = 1024

// rings are those that are open for a disk, at the plugin's end.
type rings struct {
	running sync.WaitGroup

	mu   sync.Mutex
	open map[*ring.Server]struct{}
	over bool
}

// OpenRing opens one, which serves until the host hangs up.
func (b *backendServer) OpenRing(ctx context.Context, r *backendv1.OpenRingRequest) (*backendv1.OpenRingResponse, error) {
	d, leave, err := b.enter(r.GetDisk())
	if err != nil {
		return nil, err
	}
	defer leave()
	if b.descriptors == nil {
		return nil, status.Error(codes.FailedPrecondition, "a ring can't be opened without a descriptor channel")
	}
	// Both, since they are on their way whatever else is wrong.
	socket, socketErr := b.receive(ctx, r.GetSocket())
	memory, memoryErr := b.receive(ctx, r.GetMemory())
	if err := errors.Join(socketErr, memoryErr); err != nil {
		discard(socket)
		discard(memory)
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	if size := r.GetMemorySize(); size <= 0 || size > ring.MaxMemory {
		discard(socket)
		discard(memory)
		return nil, status.Errorf(codes.InvalidArgument, "a ring can't have a memory of %d bytes", size)
	}
	server, err := ring.NewServer(d.store, socket, memory, int(r.GetMemorySize()))
	if err != nil {
		return &backendv1.OpenRingResponse{Error: errorToProto(err)}, nil
	}
	if !d.rings.run(server) {
		return nil, status.Errorf(codes.ResourceExhausted, "%d rings are open already, or disk %d is being closed", maxRings, r.GetDisk())
	}
	return &backendv1.OpenRingResponse{}, nil
}

func (b *backendServer) receive(ctx context.Context, token uint64) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, descriptorWait)
	defer cancel()
	return b.descriptors.Receive(ctx, token)
}

// run lets a ring serve, unless it may not; then it is closed.
func (r *rings) run(s *ring.Server) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	may := !r.over && len(r.open) < maxRings
	if !may {
		s.Close()
	} else if r.open == nil {
		r.open = map[*ring.Server]struct{}{s: {}}
	} else {
		r.open[s] = struct{}{}
	}
	// One that was closed runs too: that is how it ends.
	r.running.Go(func() {
		_ = s.Run() // the host has broken the rules, and finds itself hung up on
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.open, s)
	})
	return may
}

// close hangs up on all of them and waits for what they do.
func (r *rings) close() {
	r.mu.Lock()
	r.over = true
	for s := range r.open {
		s.Close()
	}
	r.mu.Unlock()
	r.running.Wait()
}
