// SPDX-License-Identifier: Apache-2.0

package wiretest

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// Store opens a disk over the wire. The test closes it, or not.
func Store(t testing.TB, open wire.Opener) store.Store {
	t.Helper()
	line := New(t, wire.Served{
		Description: wire.Description{Kind: wire.KindBackend, Name: "test"},
		Open:        open,
	})
	s, err := line.Client.OpenDisk(t.Context(), wire.Disk{Location: "test"})
	if err != nil {
		t.Fatalf("open a disk over the wire: %v", err)
	}
	return s
}

// Transport returns tr as it looks from the other end of the wire.
func Transport(t testing.TB, tr transport.Transport) transport.Transport {
	t.Helper()
	return New(t, wire.Served{
		Description: wire.Description{Kind: wire.KindTransport, Name: "test"},
		Transport:   tr,
	}).Client.Transport()
}

// Line is a wire with a plugin's services at its other end.
type Line struct {
	Client *wire.Client
	// Conn is the connection below Client, for calls that Client would not
	// make.
	Conn *grpc.ClientConn
	// Plugin is the plugin's end of the descriptor channel.
	Plugin *wire.DescriptorChannel

	server  *grpc.Server
	serving sync.WaitGroup
}

// New makes a line to what served offers. Its Descriptors are made here.
func New(t testing.TB, served wire.Served) *Line {
	t.Helper()
	return Serve(t, func(g *grpc.Server, plugin *wire.DescriptorChannel) {
		served.Descriptors = plugin
		served.Register(g)
	})
}

// Serve makes a line to services that register puts on the server itself: a
// plugin that does not keep to the rules, say.
func Serve(t testing.TB, register func(*grpc.Server, *wire.DescriptorChannel)) *Line {
	t.Helper()
	host, child, err := wire.DescriptorPair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = host.Close() })
	l := &Line{server: wire.NewServer(nil)}
	if l.Plugin, err = wire.NewDescriptorChannel(child); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Plugin.Close() })
	register(l.server, l.Plugin)

	socket := l.listen(t)
	options := append(wire.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if l.Conn, err = grpc.NewClient("unix:"+socket, options...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Conn.Close() })
	l.Client = wire.NewClient(l.Conn, host)
	return l
}

// listen starts the server at a socket whose path is short enough for one.
func (l *Line) listen(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "wire")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "socket")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	l.serving.Go(func() {
		if err := l.server.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(l.Cut)
	return socket
}

// Cut ends the plugin's side at once, as its death would. Calls under way fail;
// the store or transport behind them is not told more than that their context
// has ended.
func (l *Line) Cut() {
	_ = l.Plugin.Close()
	l.server.Stop()
	l.serving.Wait()
}
