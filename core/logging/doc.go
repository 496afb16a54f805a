// SPDX-License-Identifier: GPL-3.0-or-later

// Package logging writes the log lines that the manual page promises:
//
//	<LEVEL>:<PID> <THREAD> <SOURCEFILE>:<SOURCELINE>: <MSG>
//
// Everybody logs through [hclog.Logger]; [New] makes the one at the top, and
// each part takes a named child of it:
//
//	log := logging.New(os.Stderr, logging.Verbose)
//	log.Info("ready", "addr", addr)                // I:4711 main serve.go:88: ready addr=[::1]:4777
//	log.Named("client-3").Warn("bad magic")        // W:4711 client-3 handshake.go:40: bad magic
//
// LEVEL is D (hclog's Trace and Debug), I, W, E or F. THREAD is the logger's
// name; the one at the top is "main". Key/value pairs follow the message as
// " key=value", quoted as in Go where a value is empty or holds a space, a quote
// or anything that does not print. One call is one line is one Write: line
// breaks and control characters inside a message are escaped, so that neither
// a client nor a plugin can forge a line, and a line is cut at [MaxLine] bytes.
//
// F lines come from [Fatal], pass every threshold, and announce that the
// program ends abnormally; ending it is left to the caller. D lines exist only
// in a build with the tag "debug": without it Trace and Debug do nothing.
//
// # Plugins
//
// A plugin's own lines arrive as text on its stderr. [RelayStderr] turns them
// into lines of ours that keep the plugin's level, source position and process
// id. [Relay] makes the logger for that, and the one that go-plugin is given.
//
// # Concurrency
//
// Loggers may be used from many goroutines. A line is formatted before the one
// lock is taken, which is held for the Write alone: a stderr that does not
// drain holds up whoever logs, and never mixes two lines. A Write that fails
// is not repeated and not reported, as there is nowhere to report it.
//
// What this package does not do: rotate, colour, stamp times (the service
// manager does that), or end the program.
package logging
