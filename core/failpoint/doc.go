// SPDX-License-Identifier: GPL-3.0-or-later

// Package failpoint marks the places in the program where a test can make the
// process die, stop or fail.
//
//	if err := failpoint.Hit("source-before-rename"); err != nil {
//		return err
//	}
//
// Without the build tag failpoints a point is nothing: [Hit] is an empty function
// that the compiler inlines, and no environment variable is looked at. With the
// tag,
//
//	go build -tags failpoints -o flexnbd ./cmd/flexnbd
//	GOFAIL_FAILPOINTS='source-renamed=return("kill")' ./flexnbd serve ...
//
// it does what GOFAIL_FAILPOINTS says for that point, in the language of
// go.etcd.io/gofail: NAME=TERMS, several of them separated by semicolons. Terms are
// joined by "->", and a term may say how often or how likely it applies:
//
//	owner-synced=2*off->1*return("error:ENOSPC")     the third time only
//	source-copying=1.0%return("kill")                one time in a hundred
//
// What a point may be told to do:
//
//	off                      nothing
//	return("kill")           SIGKILL to this process; Hit does not return
//	return("stop")           SIGSTOP to this process; Hit returns nil once it is continued
//	return("error:ENOSPC")   Hit returns the [syscall.Errno] of that name
//	return("error:TEXT")     Hit returns an error with that text, which has no "=", ";" or quote
//	sleep(100)               Hit returns nil after so many milliseconds
//	panic                    Hit panics
//
// Anything else, a point that is not among [Points] included, ends the process at
// its start with exit status 2 and a sentence: a test whose fault is never injected
// would pass. For the same reason Hit panics when it is given a name that is not
// among Points.
//
// FLEXNBD_FAILPOINT_LOG names a file to which each Hit appends the point's name and
// a line feed, with one write, before it acts, and also when the point is off. So a
// test waits for "the process has come as far as this" by reading a file. The
// file is made if it is not there; several processes may share it.
//
// Points exist in the core's process only. Plugin processes have none: their
// environment is an allow-list that passes neither variable on, although the stock
// plugins run the same binary. To make a backend fail, use a store that fails.
//
// Any goroutine may call Hit. What the package does not do: turn points on or off
// while the process runs, but for gofail's own GOFAIL_HTTP.
package failpoint
