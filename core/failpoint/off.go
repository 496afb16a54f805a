// SPDX-License-Identifier: GPL-3.0-or-later

//go:build !failpoints

package failpoint

// Enabled says whether this build has failpoints.
const Enabled = false

// Hit is where a test may make the process die, stop or fail. This build has no
// failpoints: it returns nil.
func Hit(string) error { return nil }
