// SPDX-License-Identifier: GPL-3.0-or-later

package journal

import (
	"fmt"
	"math"
	"time"
)

type kind uint8

const (
	read kind = iota
	write
	zeroes
)

func (k kind) String() string { return [...]string{"READ", "WRITE", "WRITE_ZEROES"}[k] }

// operation is one attempt at a request, or a range that an image was found to hold.
// Times are nanoseconds since the Disk was made.
type operation struct {
	kind         kind
	writer       int   // the connection
	first, count int64 // sectors
	value        value // of a write

	began     int64 // when the request was sent for the first time
	call, ret int64 // of this attempt; ret is open while it may take effect
	server    string
	answered  bool
	image     bool // an image, not a server, was read

	found []run            // by a read
	raw   map[int64][]byte // the sectors that a read found mixed
}

// open is the time of an answer that has not come.
const open = math.MaxInt64

// run is some neighbouring sectors with the same value.
type run struct {
	value value
	count int64
}

func (o *operation) changes() bool { return o.kind != read }

// find notes what a read found in b, from sector first on, whole sectors.
func (o *operation) find(b []byte, tag uint64, first int64) {
	for ; len(b) > 0; b = b[SectorSize:] {
		v := decode(b[:SectorSize], tag, first)
		if v == mixed {
			if o.raw == nil {
				o.raw = map[int64][]byte{}
			}
			if len(o.raw) < maxRaw {
				o.raw[first] = append([]byte(nil), b[:SectorSize]...)
			}
		}
		if last := len(o.found) - 1; last >= 0 && o.found[last].value == v {
			o.found[last].count++
		} else {
			o.found = append(o.found, run{v, 1})
		}
		first++
	}
}

// maxRaw bounds the memory for mixed sectors of one operation. Those beyond are
// never let pass.
const maxRaw = 1 << 10

func (o *operation) times() string {
	sent := "sent at " + at(o.call)
	switch {
	case o.image:
		return "read at " + at(o.call)
	case o.answered:
		return fmt.Sprintf("%s, answered by %s at %s", sent, o.server, at(o.ret))
	case o.ret == open:
		return sent + " to " + o.server + ", not answered"
	}
	return fmt.Sprintf("%s to %s, not answered, repeated until %s", sent, o.server, at(o.ret))
}

func at(t int64) string { return fmt.Sprintf("%.6fs", time.Duration(t).Seconds()) }
