// SPDX-License-Identifier: GPL-3.0-or-later

package unixsocket

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/transporttest"
	"github.com/flexnbd/flexnbd/sdk/wire/wiretest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// socketPath is a path for a socket that is short enough wherever tests run.
func socketPath(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "fnbd")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "sock")
}

func subject(tb testing.TB, t transport.Transport, unresponsive transport.Address) transporttest.Subject {
	return transporttest.Subject{
		Transport: t,
		Listen:    transport.Address{Addr: socketPath(tb)},
		// Peers have no address of their own.
		PeerAddress:  func(dialled net.Conn) string { return dialled.RemoteAddr().String() },
		Unresponsive: unresponsive,
	}
}

func TestTransportKeepsContract(t *testing.T) {
	_, full := fullSocket(t)
	transporttest.Run(t, func(tb testing.TB) transporttest.Subject {
		return subject(tb, New(), full)
	})
}

func TestTransportKeepsContractOverTheWire(t *testing.T) {
	_, full := fullSocket(t)
	transporttest.Run(t, func(tb testing.TB) transporttest.Subject {
		return subject(tb, wiretest.Transport(tb, New()), full)
	})
}
