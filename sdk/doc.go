// SPDX-License-Identifier: Apache-2.0

// Package sdk is what a plugin's main calls:
//
//	func main() {
//		sdk.ServeBackend(sdk.Backend{Name: "mine", Version: "1.0", Open: open})
//	}
//
// where open returns a [store.Store]. PLUGINS.md leads there from an empty
// folder; package memstore is a complete store to copy from.
//
// ServeBackend and ServeTransport never return. They look after everything that
// a plugin process has to get right: the handshake with the host, nothing but
// that handshake on standard output, log lines the host understands, and an end
// when the host is gone, however it went.
//
// In a process that a host has started, importing this package is enough to keep
// standard output for the handshake: what is printed there goes to standard
// error, and so to the host's log.
package sdk
