// SPDX-License-Identifier: GPL-3.0-or-later

// Command flexnbd-backend-file is the stock file backend as a plugin of its own,
// for packagers. The flexnbd binary has the same inside.
package main

import (
	file "github.com/flexnbd/flexnbd/plugins/backend-file"
	"github.com/flexnbd/flexnbd/sdk"
)

func main() { sdk.ServeBackend(file.Plugin()) }
