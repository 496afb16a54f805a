// SPDX-License-Identifier: GPL-3.0-or-later

//go:build debug

package logging_test

// What --verbose shows in a build with the tag "debug".
const (
	verboseLetters = "DIWEF"
	debugBuild     = true
)
