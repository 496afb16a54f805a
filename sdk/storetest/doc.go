// SPDX-License-Identifier: Apache-2.0

// Package storetest checks a [store.Store] against its contract. Every clause is
// a subtest whose name says what holds, so that a failure reads as the sentence
// that is not true.
//
// A backend joins with one test:
//
//	func TestMyStoreKeepsTheContract(t *testing.T) {
//		storetest.Run(t, func(t testing.TB, size int64) store.Store {
//			disk, err := mystore.Create(filepath.Join(t.TempDir(), "disk"), size)
//			if err != nil {
//				t.Fatal(err)
//			}
//			return disk
//		})
//	}
//
// [Suite] has the options: a disk of a fixed size, sizes in units, a seed. A
// factory that opens read-only disks gets the clauses for those, and one whose
// disks lend their descriptor ([store.Lender]) those for lenders. A store that
// refuses unaligned requests is only sent aligned ones.
//
// The suite needs nothing but the interface, so the store may be in another
// process. Run it with the race detector too. It cannot pull the power cord:
// what a flush makes durable, what survives a crash and how much space a punch
// frees need tests of your own.
//
// A failure also says which sentence of the contract is not kept; [Clauses] lists
// them all. [Suite.Check] runs the suite without go test, on a plugin that is built, and
// calls back with each result: `flexnbd plugin check` does that.
//
// The package's own tests run the clauses against stores that are broken on
// purpose, and fail unless every clause catches one.
package storetest
