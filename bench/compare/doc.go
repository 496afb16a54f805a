// SPDX-License-Identifier: GPL-3.0-or-later

// Package compare measures flexnbd and other NBD servers side by side.
//
// On a shared machine one server's numbers say little: the next minute they are
// others. So the servers take turns of half a second. In a turn a server is started,
// warmed up, measured for one slice, and stopped. A round is one turn for each of them,
// in an order that changes from round to round; within a round the machine is about
// the same for all. What counts is the ratio of two servers within a round, and of
// these ratios the median over all rounds. The best peer of a scenario is the one with
// the highest median rate in it.
//
// There is one [image] on each medium, which all servers serve, since the place of its
// pages in memory makes a difference; and servers are started anew for each turn, so
// that no server keeps a good or a bad place of its own either.
//
// The parts, one to a file: [scenario]s say what the load is, a [medium] where the
// image is, [server] how one is started, and goals what is wanted of flexnbd.
// [Main] takes them together: it runs every scenario on every medium and hands what
// was measured, [Results], to the reports.
//
// What the package does not do: it judges nothing. It exits with an error when
// something could not be measured, never because something was slow.
package compare
