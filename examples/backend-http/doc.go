// SPDX-License-Identifier: Apache-2.0

// Flexnbd-backend-http is a backend of flexnbd for disk images on web servers. The
// disk is read-only; its bytes are fetched with HTTP range requests and kept in a
// cache in memory.
//
// It is also an example of a backend for slow, remote storage. From the outside in:
//
//   - [diskStore] is the store.Store that the SDK serves;
//   - [cache] holds whole blocks, fetches each one once, and bounds the memory;
//   - [streams] notices who reads in sequence, so that the cache can be ahead;
//   - [remote] makes the requests, repeats those that failed in passing, and checks
//     every answer;
//   - [version] tells one state of the image from the next, so that two are never
//     mixed.
//
// What it leaves out: writing, login other than a name and a password in the URL,
// proxies, a cache on disk.
package main
