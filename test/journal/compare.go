// SPDX-License-Identifier: GPL-3.0-or-later

package journal

import (
	"fmt"
	"io"
	"math"
)

// Compare holds an image against the model: each sector has to hold the write that
// was acknowledged last, or one that may have come after it, because the two were
// under way together or because it was never answered. The error names the sectors
// that do not, what they hold, and what was allowed. It is meant for when the loads
// have stopped; requests in flight count as not answered.
func (d *Disk) Compare(image io.ReaderAt) error {
	buf := make([]byte, stripeSize*SectorSize)
	var wrong complaints
	err := d.stripes(d.snapshot(), func(first int64, sectors [][]event) error {
		b := buf[:len(sectors)*SectorSize]
		if err := readAt(image, b, first*SectorSize); err != nil {
			return err
		}
		for i, events := range sectors {
			b, sector := b[i*SectorSize:][:SectorSize], first+int64(i)
			if v := decode(b, d.tag, sector); v == mixed {
				wrong.add(sector, "the image holds %s; allowed: %s", describe(b, d.tag, sector), list(wordings(finals(events))))
			} else if !mayBeFinal(events, v) {
				wrong.add(sector, "the image holds %v; allowed: %s", v, list(wordings(finals(events))))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return wrong.err("the image does not hold what was acknowledged")
}

// readAt fills b; an image that ends early is an error.
func readAt(image io.ReaderAt, b []byte, off int64) error {
	if n, err := image.ReadAt(b, off); n < len(b) {
		return fmt.Errorf("journal: reading the image at byte %d: %w", off+int64(n), err)
	}
	return nil
}

// initial is the write that every disk starts with.
var initial = operation{kind: zeroes, value: zero, call: math.MinInt64, began: math.MinInt64, ret: math.MinInt64, answered: true, server: "the empty disk"}

// latest returns when the newest of the answered writes was sent: what had been
// answered before that has been overwritten.
func latest(events []event) int64 {
	t := initial.call
	for _, e := range events {
		if e.changes() && e.answered {
			t = max(t, e.call)
		}
	}
	return t
}

func mayBeFinal(events []event, v value) bool {
	t := latest(events)
	if v == zero && t == initial.call {
		return true
	}
	for _, e := range events {
		if e.changes() && e.value == v && e.ret >= t {
			return true
		}
	}
	return false
}

// finals returns the writes that a sector may hold in the end.
func finals(events []event) []event {
	t := latest(events)
	var allowed []event
	if t == initial.call {
		allowed = append(allowed, event{&initial, zero})
	}
	for _, e := range events {
		if e.changes() && e.ret >= t {
			allowed = append(allowed, e)
		}
	}
	return allowed
}

// wordings says which writes these are.
func wordings(writes []event) []string {
	var texts []string
	for _, e := range writes {
		if e.operation == &initial {
			texts = append(texts, "zeroes, as at the beginning")
		} else {
			texts = append(texts, fmt.Sprintf("%v (%s)", e.value, e.times()))
		}
	}
	return texts
}
