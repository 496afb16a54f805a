// SPDX-License-Identifier: GPL-3.0-or-later

package main

type aclCommand struct {
	socketOptions
	app *app
}

// Usage implements flags.Usage.
func (c *aclCommand) Usage() string { return "--sock SOCK [ACL entry]..." }

// Execute implements flags.Commander. No entries make the list empty.
func (c *aclCommand) Execute(entries []string) error {
	return c.app.ask(c.Sock, "acl", entries...)
}
