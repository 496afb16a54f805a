// SPDX-License-Identifier: Apache-2.0

// Package ring is what both ends of lane "ring" share, and the plugin's end: the
// requests of one client connection travel as small messages over a socket, their
// bytes lie in memory that both processes have mapped.
//
//	          requests, 32 bytes each, many at a time
//	core ==================== socket ====================> plugin
//	     <==================================================
//	          completions, 16 bytes each, many at a time
//
//	core <================ shared memory ================> plugin
//	          payloads, where a request says
//
// The memory is the core's: it makes it, divides it, and alone knows which part of it
// belongs to which request. A payload lies there from when the session has it until it
// has gone to the client, or the store is through with it. The memory is sealed, so that its size is what it was when it was mapped,
// whatever the other end does.
//
// docs/plugin-protocol.md describes the lane for other languages. [Serve] is all that a
// plugin in Go needs, and the SDK calls it.
//
// # Messages
//
// Fields are little-endian and lie where their size aligns them. A request:
//
//	 0  cookie     8 bytes  names the request in its completion
//	 8  offset     8 bytes  on the disk
//	16  length     4 bytes
//	20  payload    4 bytes  where in the memory its bytes lie: 0 for what has none
//	24  operation  2 bytes  1 read, 2 write, 3 zero, 4 ping
//	26  flags      2 bytes  those of store.Flags
//	28  reserved   4 bytes  0
//
// A completion:
//
//	 0  cookie     8 bytes
//	 8  length     4 bytes  the request's if it succeeded, else 0
//	12  errno      4 bytes  0 if it succeeded, else a Linux errno up to 4095
//
// Each request is answered once, in any order. A ping is answered at once, whatever the
// disk is busy with: it tells a slow disk from a plugin that does not read its socket.
// Whoever breaks these rules is hung up on, by either end.
//
// The lane has no flush, and no writes that flush: the host sends those as calls, since
// an operating system tells only once that data was lost, and an errno without words
// would be all that is left of it.
package ring
