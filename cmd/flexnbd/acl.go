// SPDX-License-Identifier: GPL-3.0-or-later

package main

import "github.com/flexnbd/flexnbd/core/acl"

type aclCommand struct {
	socketOptions
	app *app
}

// Usage implements flags.Usage.
func (c *aclCommand) Usage() string { return "--sock SOCK [ACL entry]..." }

// Execute implements flags.Commander. No entries make the list empty.
func (c *aclCommand) Execute(entries []string) error {
	// The server, in its sandbox, can't look up names.
	return c.app.ask(c.Sock, "acl", acl.Numeric(entries)...)
}
