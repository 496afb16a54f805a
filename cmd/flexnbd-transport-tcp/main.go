// SPDX-License-Identifier: GPL-3.0-or-later

// Command flexnbd-transport-tcp is the stock TCP transport as a plugin of its
// own, for packagers. The flexnbd binary has the same inside.
package main

import (
	tcp "github.com/flexnbd/flexnbd/plugins/transport-tcp"
	"github.com/flexnbd/flexnbd/sdk"
)

func main() { sdk.ServeTransport(tcp.Plugin()) }
