// SPDX-License-Identifier: Apache-2.0

package transporttest_test

import (
	"testing"

	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/transporttest"
)

// A transport's author writes one test, TestTransportKeepsContract say.
func ExampleRun() {
	var mine transport.Transport // the transport under test

	_ = func(t *testing.T) {
		transporttest.Run(t, func(testing.TB) transporttest.Subject {
			return transporttest.Subject{
				Transport:   mine,
				Listen:      transport.Address{Addr: "127.0.0.1"},
				PeerAddress: transporttest.LocalAddress,
			}
		})
	}
}
