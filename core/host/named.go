// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"context"
	"errors"
	"sync/atomic"
	"syscall"

	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/transport"
)

// namedStore makes a remote store's errors say which plugin they came from.
type namedStore struct {
	store.Store
	process *Process
}

func (s *namedStore) ReadAt(ctx context.Context, p []byte, off int64) error {
	return s.process.named(s.Store.ReadAt(ctx, p, off))
}

func (s *namedStore) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	return s.process.named(s.Store.WriteAt(ctx, p, off, flags))
}

func (s *namedStore) PunchHole(ctx context.Context, off, length int64, flags store.Flags) error {
	return s.process.named(s.Store.PunchHole(ctx, off, length, flags))
}

func (s *namedStore) Extents(ctx context.Context, off, length int64) ([]store.Extent, error) {
	extents, err := s.Store.Extents(ctx, off, length)
	return extents, s.process.named(err)
}

func (s *namedStore) Flush(ctx context.Context) error { return s.process.named(s.Store.Flush(ctx)) }

func (s *namedStore) Close() error { return s.process.named(s.Store.Close()) }

// namedTransport does the same for a transport.
type namedTransport struct {
	transport.Transport
	process *Process
}

func (t *namedTransport) Listen(ctx context.Context, addr transport.Address) (transport.Listener, error) {
	l, err := t.Transport.Listen(ctx, addr)
	if err != nil {
		return nil, t.process.named(err)
	}
	return &namedListener{Listener: l, process: t.process}, nil
}

func (t *namedTransport) Dial(ctx context.Context, addr, bind transport.Address) (transport.Conn, error) {
	conn, err := t.Transport.Dial(ctx, addr, bind)
	return conn, t.process.named(err)
}

type namedListener struct {
	transport.Listener
	process *Process
	full    atomic.Bool // this process had no descriptor free, and said so
}

// Accept goes on after a connection that was lost because this process has too
// many files open: no listener ends for that.
func (l *namedListener) Accept(ctx context.Context) (transport.Conn, error) {
	for {
		conn, err := l.Listener.Accept(ctx)
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			if !l.full.Swap(true) {
				l.process.log.Warn("connections are lost until files are closed", "error", err)
			}
			continue
		}
		if err == nil {
			l.full.Store(false)
		}
		return conn, l.process.named(err)
	}
}
