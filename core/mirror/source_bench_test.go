// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/session"
	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// nowhere is a disk whose bytes are all alike and that keeps nothing, so that what is
// measured is the way between two of them.
type nowhere struct{ store.Store }

var ones = bytes.Repeat([]byte{1}, wire.MaxPayload)

func (nowhere) Info() store.Info {
	return store.Info{Size: 1 << 30, MinBlock: 1, PreferredBlock: 4096, FUA: store.Native}
}

func (nowhere) ReadAt(_ context.Context, p []byte, _ int64) error {
	copy(p, ones)
	return nil
}

func (nowhere) WriteAt(context.Context, []byte, int64, store.Flags) error { return nil }

func (nowhere) Flush(context.Context) error { return nil }

func newNowhere(b *testing.B) *export.Export {
	e, err := export.Open(context.Background(), nowhere{memstore.New(1 << 30)}, export.Options{})
	if err != nil {
		b.Fatal(err)
	}
	return e
}

// BenchmarkCopy rehearses the migration of 1 GiB of data over loopback, with different
// numbers of connections. maxConnections is what it says.
func BenchmarkCopy(b *testing.B) {
	for _, connections := range []int{1, 2, 3, 4, 6} {
		b.Run(fmt.Sprint(connections), func(b *testing.B) {
			here, there := newNowhere(b), newNowhere(b)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			var sessions sync.WaitGroup
			sessions.Go(func() {
				for c, err := l.Accept(); err == nil; c, err = l.Accept() {
					sessions.Go(func() {
						_ = session.Serve(context.Background(), c, session.Config{Export: there, Log: hclog.NewNullLogger(), Stopping: make(chan struct{})})
					})
				}
			})
			s := NewSource(SourceConfig{Export: here, Dial: func(ctx context.Context, to, _ transport.Address) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", to.String())
			}})
			s.connections = connections
			at := l.Addr().(*net.TCPAddr)
			b.SetBytes(1 << 30)
			for b.Loop() {
				order := Order{To: transport.Address{Addr: at.IP.String(), Port: uint16(at.Port)}, Rehearse: true, Unconfirmed: true}
				if err := s.Start(context.Background(), order); err != nil {
					b.Fatal(err)
				}
				if outcome, err := s.Wait(context.Background()); err != nil || outcome.Kind != Rehearsed {
					b.Fatal(outcome, err)
				}
			}
			s.Close()
			_ = l.Close()
			sessions.Wait()
			_ = here.Close(context.Background())
			_ = there.Close(context.Background())
		})
	}
}
