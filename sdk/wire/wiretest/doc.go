// SPDX-License-Identifier: Apache-2.0

// Package wiretest puts the plugin wire between a test and what it tests: real
// gRPC over a Unix socket and a real descriptor channel, with both ends in the
// test's own process. So a suite can be run over the wire without a plugin
// binary:
//
//	storetest.Run(t, func(t testing.TB, size int64) store.Store {
//		return wiretest.Store(t, func(context.Context, wire.Disk) (store.Store, error) {
//			return mystore.New(size), nil
//		})
//	})
//
// Everything that it starts ends with the test. It starts no process: what a
// plugin process has to get right is tested where plugins are started.
package wiretest
