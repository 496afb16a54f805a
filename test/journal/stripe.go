// SPDX-License-Identifier: GPL-3.0-or-later

package journal

// stripeSize is how many sectors are looked at together, which bounds the memory
// for their registers.
const stripeSize = 2048

// event is an operation from one sector's point of view.
type event struct {
	*operation
	value value // written or found
}

// stripes calls judge for each part of the disk, with the events of each of its
// sectors in the order of the history. They are judge's only until it returns.
func (d *Disk) stripes(history []operation, judge func(first int64, sectors [][]event) error) error {
	byStripe := make([][]int, (d.sectors+stripeSize-1)/stripeSize)
	for i := range history {
		o := &history[i]
		for s := o.first / stripeSize; s <= (o.first+o.count-1)/stripeSize; s++ {
			byStripe[s] = append(byStripe[s], i)
		}
	}
	sectors := make([][]event, stripeSize)
	for s, indexes := range byStripe {
		first := int64(s) * stripeSize
		here := sectors[:min(stripeSize, d.sectors-first)]
		for i := range here {
			here[i] = here[i][:0]
		}
		for _, i := range indexes {
			spread(&history[i], first, here)
		}
		if err := judge(first, here); err != nil {
			return err
		}
	}
	return nil
}

// spread adds an operation to the sectors of a stripe that it touches.
func spread(o *operation, first int64, here [][]event) {
	add := func(from, count int64, v value) {
		to := min(from+count-first, int64(len(here)))
		for i := max(from-first, 0); i < to; i++ {
			here[i] = append(here[i], event{o, v})
		}
	}
	if o.changes() {
		add(o.first, o.count, o.value)
		return
	}
	from := o.first
	for _, r := range o.found {
		add(from, r.count, r.value)
		from += r.count
	}
}
