// SPDX-License-Identifier: GPL-3.0-or-later

//go:build !cgo

package sandbox

// ofThreads are calls by which threads are signalled, whosever they are.
// Go itself does not use tkill.
var ofThreads = []string{"tkill"}
