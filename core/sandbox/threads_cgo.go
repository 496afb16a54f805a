// SPDX-License-Identifier: GPL-3.0-or-later

//go:build cgo

package sandbox

// ofThreads are calls by which threads are signalled, whosever they are.
// With cgo, libcap reaches all threads by tkill.
var ofThreads []string
