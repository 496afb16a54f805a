// SPDX-License-Identifier: Apache-2.0

// Package transporttest is the conformance suite of package transport: what
// passes it can carry flexnbd's connections. A transport's author calls [Run]
// from a test, as its example shows, and each clause of the contract becomes a
// subtest. A [Factory] supplies the transport and an address to listen at.
//
// The transport under test may be in the same process, behind the plugin wire,
// or a built binary: the suite knows only the interface.
//
// The clauses run one after the other and count the process's descriptors, so
// a test that calls Run does not call t.Parallel. A transport that hangs fails
// its clause after ten seconds; what it left hanging is then abandoned, since
// nothing can end it. Linux only.
//
// A failure also says which sentence of the contract is not kept; [Clauses] lists
// them all. [Suite.Check] runs the clauses without go test: `flexnbd plugin check`
// does that.
//
// # What it does not do
//
// It does not measure, and it cannot judge what only the transport's own tests
// can see: socket options, which error stands for which cause, how names are
// resolved, what happens when descriptors run out.
package transporttest
