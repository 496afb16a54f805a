// SPDX-License-Identifier: Apache-2.0

// Package memstore is the reference [store.Store]: a disk in memory, and the
// place to start from when writing a backend of your own.
//
//	disk := memstore.New(1 << 30)
//
// The disk is sparse. It is cut into pages of 4 KiB, a page takes memory once
// something is written to it, and a page that is punched is freed. A page that
// is not there reads as zeroes. That is all; each method below is the shortest
// correct answer to its clause of the contract in package store.
//
// It does not survive its process, does not look whether a written page holds
// only zeroes, and has no limit but the machine's memory.
//
// One lock, a [sync.RWMutex], guards the pages: any number of readers, or one
// writer.
package memstore
