// SPDX-License-Identifier: Apache-2.0

// Package rangelock locks runs of bytes of a disk, shared or exclusively, first
// come first served:
//
//	claim, err := lock.Lock(ctx, off, off+length, true)
//	if err != nil { ... } // ctx ended; nothing is held
//	defer lock.Unlock(claim)
//
// Runs that do not overlap do not wait for each other. A claim waits for every
// earlier one that it conflicts with, granted or not, so neither kind starves.
// The cost of a lock grows with the number of claims at the time, which callers
// bound; for hundreds it is well below a microsecond.
package rangelock
