// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"github.com/flexnbd/flexnbd/core/dirty"
)

// tracker is told of every change to the disk while an attempt runs
// ([export.Tracker]). It marks what has to be sent again; in the write-through phase
// the change is sent at once instead, and its client waits for that.
//
// It outlives its attempt by the requests that were told of it: by then it marks bits
// that nobody looks at.
type tracker struct {
	bitmap  *dirty.Bitmap
	through *through
}

// Changed implements [export.Tracker]. A range that is dirty as a whole is marked
// again: the copy in the background will send it, later than this change, and to send
// it twice would gain nothing.
func (k *tracker) Changed(off, length int64, resume func()) bool {
	if resume != nil && length > 0 && !k.bitmap.AllDirty(off, length) && k.through.take(off, length, resume) {
		return true
	}
	k.bitmap.Mark(off, length)
	return false
}
