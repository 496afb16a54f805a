// SPDX-License-Identifier: GPL-3.0-or-later

// Package process looks at other processes: which belong together, and what they
// take. A [Tree] is a process and all below it, since some servers start a process
// for each connection, and flexnbd one for each plugin.
//
// The package starts and ends nothing.
package process
