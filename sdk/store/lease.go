// SPDX-License-Identifier: Apache-2.0

package store

import "os"

// Leaser is a Store that holds a lock on its disk with an open descriptor, such
// as a file's. The host keeps a duplicate of it, so that the lock outlives a
// crash of the backend's process and nobody else can take the disk in between. A
// new process is given that duplicate and uses it instead of opening the disk by
// name, which may be another's by then.
type Leaser interface {
	Store
	// Lease returns the descriptor. It stays the store's own.
	Lease() *os.File
}
