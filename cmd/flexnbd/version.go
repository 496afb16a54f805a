// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"fmt"
	"runtime"

	"github.com/flexnbd/flexnbd/sdk"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// version is set by the linker (see Makefile).
var version = "devel"

type versionCommand struct{ app *app }

// Execute implements flags.Commander.
func (c *versionCommand) Execute(args []string) error {
	if err := noArguments(args); err != nil {
		return err
	}
	_, err := fmt.Fprintf(c.app.stdout, "flexnbd %s (sdk %s, plugin protocol %d, %s %s/%s)\n",
		version, sdk.Version, wire.ProtocolVersion, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
