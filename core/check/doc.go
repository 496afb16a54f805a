// SPDX-License-Identifier: GPL-3.0-or-later

// Package check holds a built plugin against its contract, as `flexnbd plugin check`
// does for authors and packagers who have no Go test at hand:
//
//	err := check.Run(ctx, check.Config{
//		Program:  program, // from host.Finder
//		Location: "{dir}/disk",
//		Log:      log,
//	}, func(r check.Result) { fmt.Println(r) })
//
// The plugin is started as a server starts it, by package host, again and again, and
// everything goes over the wire. The clauses come in parts:
//
//	process     it starts, is what its file name says, heeds no signal that a terminal
//	            sends to everybody, keeps standard output clean, ends with its host
//	read-only   sdk/storetest on a disk that was opened for reading alone
//	lane rpc    sdk/storetest, with the data in calls; then its process is killed
//	lane ring   the same over rings, where the plugin offers them
//	lane file   the same on the descriptor that the backend lends, where it does
//	transport   sdk/transporttest
//
// # Disks to check on
//
// Everything on the disk that [Config.Location] names is lost: it is opened for one
// clause after the other, and made zero before each. Clauses about other sizes are left
// out then. A location in which "{size}" or "{dir}" stands names a fresh disk each time,
// and gets every clause: "{size}" is replaced by the size in bytes, for backends whose
// location is that; "{dir}" by a new folder in which a sparse file "disk" of that size
// is.
//
// # What it does not do
//
// It pulls no power cord, does not measure, and proves nothing about races inside the
// plugin: sdk/storetest under go test -race does more for an author.
package check
