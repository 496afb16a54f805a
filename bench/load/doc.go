// SPDX-License-Identifier: GPL-3.0-or-later

// Package load puts an NBD server under load and measures what it answers.
//
// [Open] makes the connections that a [Workload] asks for, and [Client.Run] keeps
// so many requests in flight on each of them for a while; it may be called again
// and again on the same connections. Its [Result] has the number of requests, the
// latency of each one in a [Histogram], and the CPU time that the load itself took.
//
// The load shares the machine with the server it measures, so it has to be much
// cheaper than any server, and the same for all of them:
//
//   - One goroutine serves a connection, locked to a thread, on a blocking socket.
//     A request alone costs one send and one receive; Go's poller would add a
//     failed receive, an epoll_wait and a wake-up. With one request in flight that
//     is a fifth of the CPU time; the latency came out the same.
//   - One receive takes in as many replies as there are, and one send carries all
//     the requests that they allow. Nothing is allocated after the start.
//   - The payload of a write stands behind its header in memory, so it is not
//     copied before it is sent.
//
// Threads that wait in a receive keep one of Go's processors for a moment. Set
// GOMAXPROCS to the number of connections plus two, however many CPUs there are,
// so that none waits for another.
//
// Every reply is checked: magic number, cookie, no error, as much data as was asked
// for, and the stamps in it, one for each 4 KiB. So the disk has to hold what [Fill]
// makes. Writes write the same again. [Client.Run] compares every byte if told to.
//
// What the package does not do: it knows no server, starts none, and sends no
// command but READ, WRITE and DISC.
package load
