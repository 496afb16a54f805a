// SPDX-License-Identifier: GPL-3.0-or-later

package main

type serveCommand struct {
	diskOptions
	ReadOnly       bool `short:"r" long:"read-only" description:"Refuse writes, and share the file with other read-only servers"`
	IgnoreMigrated bool `long:"ignore-migrated" description:"Serve a disk that was given away. Dangerous: make sure first that the server which it was given to cannot come back"`
	app            *app
}

// Usage implements flags.Usage.
func (c *serveCommand) Usage() string {
	return "--addr ADDR --port PORT --file FILE [options] [ACL entry]..."
}

// Execute implements flags.Commander. Arguments are access list entries.
func (c *serveCommand) Execute(args []string) error {
	s, err := c.serving(c.app, args)
	if err != nil {
		return err
	}
	s.disk.ReadOnly = c.ReadOnly
	s.ignoreMigrated = c.IgnoreMigrated
	return s.run()
}
