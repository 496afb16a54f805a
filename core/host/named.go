// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"context"

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
}

func (l *namedListener) Accept(ctx context.Context) (transport.Conn, error) {
	conn, err := l.Listener.Accept(ctx)
	return conn, l.process.named(err)
}
