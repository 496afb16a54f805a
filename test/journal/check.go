// SPDX-License-Identifier: GPL-3.0-or-later

package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// Report is what Check looked at.
type Report struct {
	Requests int      // answered
	Sectors  int64    // that were written or zeroed
	Searched int64    // of them, with requests that overlapped, judged by porcupine
	Torn     int      // sectors seen in the middle of a write, let pass
	Served   []string // see Disk.Served
}

func (r Report) String() string {
	return fmt.Sprintf("%d requests on %d sectors, %d of them searched, %d torn reads, served by %v", r.Requests, r.Sectors, r.Searched, r.Torn, r.Served)
}

// Check judges the history of every sector. image, if not nil, is what the disk's
// owner has in the end: it is compared first (see Compare) and counts as a last read
// of the whole disk.
//
// The error says which sectors are wrong, which read shows it, and what it could have
// found. No answer for a sector, within half a minute or before ctx ends, is an error
// as well.
func (d *Disk) Check(ctx context.Context, image io.ReaderAt) (Report, error) {
	var compared error
	history := d.snapshot()
	if image != nil {
		compared = d.Compare(image)
		last, err := d.last(image)
		if err != nil {
			return Report{}, err
		}
		history = append(history, last)
	}
	j := judge{ctx: ctx, tag: d.tag, report: Report{Served: served(history)}}
	for i := range history {
		if history[i].answered && !history[i].image && history[i].writer != filler {
			j.report.Requests++
		}
	}
	err := d.stripes(history, j.stripe)
	return j.report, errors.Join(compared, err, j.wrong.err("no order of the requests explains what was read"))
}

// last makes an operation of an image.
func (d *Disk) last(image io.ReaderAt) (operation, error) {
	o := operation{kind: read, count: d.sectors, call: d.now(), image: true, answered: true, server: "the image"}
	buf := make([]byte, stripeSize*SectorSize)
	for first := int64(0); first < d.sectors; first += stripeSize {
		b := buf[:min(stripeSize, d.sectors-first)*SectorSize]
		if err := readAt(image, b, first*SectorSize); err != nil {
			return o, err
		}
		o.find(b, d.tag, first)
	}
	o.began, o.ret = o.call, d.now()
	return o, nil
}

// judge holds what one Check has found.
type judge struct {
	ctx    context.Context
	tag    uint64
	report Report
	wrong  complaints

	events []event // of the sector in hand
}

func (j *judge) stripe(first int64, sectors [][]event) error {
	for i, events := range sectors {
		if err := context.Cause(j.ctx); err != nil {
			return fmt.Errorf("journal: the check did not come further than sector %d: %w", first+int64(i), err)
		}
		if err := j.sector(first+int64(i), events); err != nil {
			return err
		}
	}
	return nil
}

func (j *judge) sector(sector int64, events []event) error {
	if len(events) == 0 {
		return nil
	}
	if slices.ContainsFunc(events, func(e event) bool { return e.changes() }) {
		j.report.Sectors++
	}
	whole := j.events[:0]
	for _, e := range events {
		if e.value != mixed {
			whole = append(whole, e)
		} else if torn(e, events, j.tag, sector) {
			j.report.Torn++
		} else {
			j.wrong.add(sector, "%s found %s", reader(e), describeEvent(e, j.tag, sector))
		}
	}
	j.events = whole
	slices.SortStableFunc(whole, func(a, b event) int { return compareTimes(a.call, b.call) })
	verdict, searched := linearizable(whole, j.patience())
	if searched {
		j.report.Searched++
	}
	switch verdict {
	case porcupine.Illegal:
		j.explain(sector, whole)
	case porcupine.Unknown:
		return fmt.Errorf("journal: no verdict on the %d requests of sector %d within %v; nothing is known of the sectors behind it", len(whole), sector, patience)
	}
	return nil
}

func compareTimes(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// patience is for one sector, whose search takes milliseconds.
const patience = 30 * time.Second

func (j *judge) patience() time.Duration {
	if deadline, ok := j.ctx.Deadline(); ok {
		return max(min(patience, time.Until(deadline)), time.Millisecond) // 0 would be no limit
	}
	return patience
}

// register is one sector that holds a value at first: a read finds what was written
// last.
func register(first value) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return first },
		Step: func(state, input, output any) (bool, any) {
			if input != nil {
				return true, input
			}
			return state == output, state
		},
	}
}

// linearizable judges the history of a sector, in the order of the calls. It is cut
// into parts between which nothing was under way, so that any order has one part
// before the next, and what the sector holds there is known. A part of one request
// is judged at sight, searched says whether there were others.
//
// Attempts that were never answered are writes like others, whose time ends with
// that of their repeat, or never: one that took no effect is taken for one that
// took it immediately before its repeat, or after everything else, which shows as
// little.
func linearizable(events []event, limit time.Duration) (verdict porcupine.CheckResult, searched bool) {
	for state := zero; len(events) > 0; {
		n := part(events)
		last := events[n-1]
		if n > 1 {
			searched = true
			if v := search(state, events[:n], limit); v != porcupine.Ok {
				return v, true
			}
		} else if !last.changes() && last.value != state {
			return porcupine.Illegal, searched
		}
		state, events = last.value, events[n:]
	}
	return porcupine.Ok, searched
}

// part returns how many requests the first part has. It ends with a request that was
// alone, since such a one, be it a read or a write, settles what the sector holds.
func part(events []event) int {
	for begin := 0; begin < len(events); {
		end, until := begin+1, events[begin].ret
		for ; end < len(events) && events[end].call <= until; end++ {
			until = max(until, events[end].ret)
		}
		if end == begin+1 {
			return end
		}
		begin = end
	}
	return len(events)
}

// search asks porcupine.
func search(state value, events []event, limit time.Duration) porcupine.CheckResult {
	ops := make([]porcupine.Operation, len(events))
	for i, e := range events {
		ops[i] = porcupine.Operation{ClientId: e.writer, Call: e.call, Return: e.ret}
		if e.changes() {
			ops[i].Input = e.value
		} else {
			ops[i].Output = e.value
		}
	}
	return porcupine.CheckOperationsTimeout(register(state), ops, limit)
}

// torn says whether a read may have found what it did because a write of the sector
// was under way.
func torn(r event, events []event, tag uint64, sector int64) bool {
	b := r.raw[sector]
	if r.image || b == nil {
		return false
	}
	underWay := false
	var writes []value
	for _, e := range events {
		if e.changes() && e.call < r.ret {
			writes = append(writes, e.value)
			underWay = underWay || e.ret > r.call
		}
	}
	return underWay && spliced(b, tag, sector, writes)
}
