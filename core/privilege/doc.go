// SPDX-License-Identifier: GPL-3.0-or-later

// Package privilege makes a process that root has started somebody else's.
//
//	user, err := privilege.Lookup("flexnbd", "")
//	err = user.Lower()  // from here on files are opened as that user
//	...
//	err = privilege.Raise() // for something that only root may do
//	err = user.Lower()
//	...
//	err = user.Become() // for good
//
// All threads change together. Lower and Raise only change who the process acts as, and
// protect from mistakes, not from an attacker: so whoever serves strangers has to have
// called Become.
package privilege
