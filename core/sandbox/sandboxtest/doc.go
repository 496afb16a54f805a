// SPDX-License-Identifier: GPL-3.0-or-later

// Package sandboxtest makes attempts that a sandbox should hold back, in whatever process
// a test has got into one: a bare one, a plugin, the server.
package sandboxtest
