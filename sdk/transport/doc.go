// SPDX-License-Identifier: Apache-2.0

// Package transport is the contract between flexnbd and the way clients reach
// it: the [Transport] interface and nothing else.
//
// A transport listens and dials. It never sees a byte of NBD: it hands each
// connected socket to the core, together with who is at the other end, and
// forgets it. So framing and the access list stay in the core, no byte is
// copied through the plugin, and connections outlive the plugin's crash.
//
// A transport that cannot hand over a socket (one that does TLS in user space,
// say) hands over one end of a socketpair and relays between the two.
//
// # Concurrency
//
// Every method may be called from many goroutines at once. Closing a listener
// ends the Accept calls that wait on it with [net.ErrClosed]; a context that
// ends does the same to one call, with the context's error.
package transport
