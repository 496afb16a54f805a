// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"testing"
	"time"
)

const mib = 1 << 20

func TestEverythingArrives(t *testing.T) {
	for name, test := range map[string]struct {
		size   int64
		before func(o *origin, d *target)
		most   int64 // bytes that may be sent
	}{
		"nothing but zeroes": {16 * mib, func(*origin, *target) {}, 64 << 10},
		"sparse": {40 * mib, func(o *origin, _ *target) {
			o.fill(5*mib+512, 3*mib, 1)
			o.fill(30*mib+77, 100, 2)
			o.fill(40*mib-1, 1, 3)
		}, 3*mib + 64<<10},
		"dense, of an odd size": {9*mib + 12345, func(o *origin, _ *target) { o.fill(0, 9*mib+12345, 4) }, 9*mib + 12345},
		"over old data": {32 * mib, func(o *origin, d *target) {
			o.fill(10*mib+4096, 8*mib, 5)
			d.fill(0, 32*mib, 6)
		}, 9 * mib},
	} {
		t.Run(name, func(t *testing.T) {
			o, d := newOrigin(t, test.size), newTarget(t, test.size, listens)
			test.before(o, d)
			began := time.Now()
			o.start(Order{To: d.address})
			outcome := o.migrated()
			d.owns()
			d.equals(o)
			if outcome.Bytes > test.most {
				t.Errorf("%d bytes were sent, %d are enough", outcome.Bytes, test.most)
			}
			if sent := o.links.sent.Load(); sent > outcome.Bytes+outcome.Bytes/50+4096 {
				t.Errorf("%d bytes went over the wire for %d of payload", sent, outcome.Bytes)
			}
			if got := d.records.State().Received; got == nil || got.ID != outcome.ID {
				t.Errorf("the destination's record is %+v, the migration %v", got, outcome.ID)
			}
			if len(o.records.State().Migrated.To) != 1 {
				t.Errorf("the record says %+v", o.records.State().Migrated)
			}
			t.Logf("%v, pause %v, %d passes, %d bytes", time.Since(began), outcome.Pause, outcome.Passes, outcome.Bytes)
		})
	}
}

func TestWhatIsWrittenDuringTheCopyArrives(t *testing.T) {
	const size = 20*mib + 4096
	o, d := newOrigin(t, size), newTarget(t, size, listens)
	o.fill(0, 12*mib, 1)
	l := o.load(8, 0, size, 200<<10, 500*time.Microsecond)
	defer func() { l.end(t, 2*time.Second) }()
	o.start(Order{To: d.address, MaxSpeed: 60 * mib})
	o.state(StateCopying)
	outcome := o.migrated()
	d.owns()
	d.equals(o)
	t.Logf("%+v, clients wrote %d, slowest %v", outcome, l.bytes.Load(), time.Duration(l.slowest.Load()))
}
