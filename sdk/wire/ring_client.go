// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/store"
	backendv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/backend/v1"
)

// RingOpener is a remote Store that may have rings.
type RingOpener interface {
	// HasRings says whether the disk's lane is the ring lane.
	HasRings() bool
	// OpenRing opens a ring over memory, which stays the caller's, and returns this
	// end of its socket, which is the caller's to close.
	OpenRing(ctx context.Context, memory *os.File, size int) (socket *os.File, err error)
}

// HasRings implements [RingOpener].
func (s *remoteStore) HasRings() bool { return s.rings }

// ringSocketBuffer is what the kernel may keep of a ring's requests, in bytes: those of
// all slots, sent one by one, of which it counts some 800 bytes each.
const ringSocketBuffer = 512 << 10

// OpenRing implements [RingOpener].
func (s *remoteStore) OpenRing(ctx context.Context, memory *os.File, size int) (*os.File, error) {
	if !s.rings {
		return nil, fmt.Errorf("the disk's lane is not %s: %w", LaneRing, store.ErrNotSupported)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("a ring's socket: %w", err)
	}
	for _, fd := range fds {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, ringSocketBuffer) // as much of it as may be
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ring"), os.NewFile(uintptr(fds[1]), "ring")
	defer func() { _ = theirs.Close() }()
	if err := s.askForRing(ctx, theirs, memory, size); err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	return ours, nil
}

func (s *remoteStore) askForRing(ctx context.Context, socket, memory *os.File, size int) error {
	request := &backendv1.OpenRingRequest{Disk: s.disk, MemorySize: int64(size)}
	var err error
	if request.Socket, err = s.descriptors.Send(socket); err != nil {
		return err
	}
	if request.Memory, err = s.descriptors.Send(memory); err != nil {
		return err
	}
	r, err := s.backend.OpenRing(ctx, request)
	return callError(ctx, err, r.GetError())
}
