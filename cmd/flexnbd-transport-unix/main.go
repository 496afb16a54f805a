// SPDX-License-Identifier: GPL-3.0-or-later

// Command flexnbd-transport-unix is the stock Unix socket transport as a plugin
// of its own, for packagers. The flexnbd binary has the same inside.
package main

import (
	unixsocket "github.com/flexnbd/flexnbd/plugins/transport-unix"
	"github.com/flexnbd/flexnbd/sdk"
)

func main() { sdk.ServeTransport(unixsocket.Plugin()) }
