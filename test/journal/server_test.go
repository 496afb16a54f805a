// SPDX-License-Identifier: GPL-3.0-or-later

package journal

import (
	"bytes"
	"context"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/session"
	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/store"
)

// server is a simple NBD server in this process.
type server struct {
	address string
	gate    *export.Gate
	stop    func() // answers new requests with ESHUTDOWN
	kill    func() // cuts all connections; returns when nothing of it is left
}

// serve serves a store, which outlives the server, at a port of its own.
func serve(t testing.TB, s store.Store) *server {
	t.Helper()
	e, err := export.Open(t.Context(), kept{s}, export.Options{})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cut := context.WithCancel(context.Background())
	stopping := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				_ = session.Serve(ctx, conn, session.Config{Export: e, Log: hclog.NewNullLogger(), Stopping: stopping})
			})
		}
	})
	kill := sync.OnceFunc(func() {
		_ = listener.Close()
		e.Gate().Open() // what a test held would wait for ever
		cut()
		running.Wait()
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(kill)
	stop := func() {
		_ = listener.Close()
		close(stopping)
	}
	return &server{listener.Addr().String(), e.Gate(), stop, kill}
}

// places is where servers are at the moment, by the names that a load has for them.
type places struct{ sync.Map }

func (p *places) put(name string, s *server) { p.Store(name, s.address) }

func (p *places) dial(ctx context.Context, s Server) (net.Conn, error) {
	address, there := p.Load(s.Address)
	if !there {
		return nil, syscall.ECONNREFUSED
	}
	return new(net.Dialer).DialContext(ctx, "tcp", address.(string))
}

// kept is a store that its server does not close.
type kept struct{ store.Store }

func (kept) Close() error { return nil }

// reading reads a store as an image.
type reading struct{ store.Store }

func (r reading) ReadAt(p []byte, off int64) (int, error) {
	if err := r.Store.ReadAt(context.Background(), p, off); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (r reading) WriteAt(p []byte, off int64) (int, error) {
	if err := r.Store.WriteAt(context.Background(), p, off, 0); err != nil {
		return 0, err
	}
	return len(p), nil
}

// forgetful is a store that acknowledges a few writes and does not carry them out:
// several, since one alone may be overwritten before anybody looks.
type forgetful struct {
	store.Store
	writes atomic.Int64
	lost   chan struct{} // closed when it has happened
}

const firstForgotten, lastForgotten = 50, 60

func (f *forgetful) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	if bytes.Count(p, []byte{0}) == len(p) {
		return f.Store.WriteAt(ctx, p, off, flags) // the edge of a zeroing, which may change nothing
	}
	n := f.writes.Add(1)
	if n == lastForgotten {
		close(f.lost)
	}
	if n >= firstForgotten && n <= lastForgotten {
		return nil
	}
	return f.Store.WriteAt(ctx, p, off, flags)
}

// full is a store without space.
type full struct{ store.Store }

func (full) WriteAt(context.Context, []byte, int64, store.Flags) error { return store.ErrNoSpace }

// counting counts what reaches the store.
type counting struct {
	store.Store
	calls atomic.Int64
}

func (c *counting) ReadAt(ctx context.Context, p []byte, off int64) error {
	c.calls.Add(1)
	return c.Store.ReadAt(ctx, p, off)
}

func (c *counting) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	c.calls.Add(1)
	return c.Store.WriteAt(ctx, p, off, flags)
}

const diskSize = 4 << 20

// begin fills a disk in memory and starts a load on it. It is stopped at the latest
// when the test ends.
func begin(t *testing.T, o Options) (*Disk, *Load) {
	t.Helper()
	return beginOn(t, NewDisk(diskSize), o)
}

func beginOn(t *testing.T, d *Disk, o Options) (*Disk, *Load) {
	t.Helper()
	l, err := NewLoad(d, o)
	if err != nil {
		t.Fatal(err)
	}
	l.Start()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = l.Stop(ctx)
	})
	return d, l
}

// limited bounds what a test waits for.
func limited(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func filled(t testing.TB) (*Disk, *memstore.Store) {
	t.Helper()
	d, s := NewDisk(diskSize), memstore.New(diskSize)
	must(t, d.Fill(reading{s}, 0, diskSize/2))
	return d, s
}
