// SPDX-License-Identifier: GPL-3.0-or-later

package export

import (
	"bytes"
	"encoding/binary"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

// zeroes is never written to.
var zeroes [wire.MaxPayload]byte

// allZero says whether p, at most one block, holds only zeroes. Data mostly
// shows in its first bytes, so these are looked at before the library's
// vectorised comparison is called.
func allZero(p []byte) bool {
	if len(p) >= 8 && binary.LittleEndian.Uint64(p) != 0 {
		return false
	}
	return bytes.Equal(p, zeroes[:len(p)])
}
