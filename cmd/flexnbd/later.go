// SPDX-License-Identifier: GPL-3.0-or-later

package main

// laterVerbs are the verbs of the manual that are still to come.
var laterVerbs = []string{"listen", "mirror", "break"}

type laterCommand struct{ name string }

// Execute implements flags.Commander.
func (c *laterCommand) Execute([]string) error {
	return usagef("%s comes with a later version of flexnbd", c.name)
}
