// SPDX-License-Identifier: GPL-3.0-or-later

// Command flexnbd-backend-blockdev is the stock block device backend as a plugin
// of its own, for packagers. The flexnbd binary has the same inside.
package main

import (
	blockdev "github.com/flexnbd/flexnbd/plugins/backend-blockdev"
	"github.com/flexnbd/flexnbd/sdk"
)

func main() { sdk.ServeBackend(blockdev.Plugin()) }
