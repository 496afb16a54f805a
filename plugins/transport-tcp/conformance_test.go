// SPDX-License-Identifier: GPL-3.0-or-later

package tcp

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/transporttest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func TestTransportKeepsContract(t *testing.T) {
	unresponsive := transporttest.UnresponsiveTCP(t)
	for name, subject := range map[string]transporttest.Subject{
		"IPv4":     {Listen: transport.Address{Addr: "127.0.0.1"}, Bind: transport.Address{Addr: "127.0.0.2"}},
		"IPv6":     {Listen: transport.Address{Addr: "::1"}},
		"EveryIP":  {Listen: transport.Address{Addr: "::"}},
		"HostName": {Listen: transport.Address{Addr: "localhost"}},
	} {
		subject.Transport = New()
		subject.PeerAddress = transporttest.LocalAddress
		subject.Unresponsive = unresponsive
		t.Run(name, func(t *testing.T) {
			transporttest.Run(t, func(testing.TB) transporttest.Subject { return subject })
		})
	}
}
