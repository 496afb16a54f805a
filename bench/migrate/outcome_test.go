// SPDX-License-Identifier: GPL-3.0-or-later

package migrate

import (
	"bufio"
	"strings"
	"testing"
	"time"
)

func TestOutcomeIsRead(t *testing.T) {
	for text, want := range map[string]outcome{
		"rehearsed: 268435456 bytes sent in 412ms (621 MiB/s), attempts: 1, passes: 3, clients held for 17.2ms": {268435456, 17200 * time.Microsecond},
		"migrated: 0 bytes sent in 1m2s (0 MiB/s), attempts: 2, passes: 1, clients held for 400µs":              {0, 400 * time.Microsecond},
	} {
		if have, err := parseOutcome(text); err != nil || have != want {
			t.Errorf("%q says %+v (%v)", text, have, err)
		}
	}
	for _, text := range []string{"", "mirror stopped", "rehearsed: x bytes sent in 1s, clients held for 1ms", "rehearsed: 1 bytes sent in 1s, clients held for long"} {
		if have, err := parseOutcome(text); err == nil {
			t.Errorf("%q says %+v", text, have)
		}
	}
}

func TestResidentMemoryIsRead(t *testing.T) {
	const status = "Name:\tflexnbd\nVmHWM:\t   34568 kB\nVmRSS:\t   16000 kB\n"
	read := func(field string) (int64, error) {
		return parseResident(bufio.NewScanner(strings.NewReader(status)), field)
	}
	if have, err := read("VmHWM"); err != nil || have != 34568*kib {
		t.Errorf("VmHWM is %d (%v)", have, err)
	}
	if have, err := read("VmSwap"); err == nil {
		t.Errorf("VmSwap, which is not there, is %d", have)
	}
}

func TestCapsAreHalves(t *testing.T) {
	for turn, want := range map[string]int64{aloneTurn: -1, unlimitedTurn: 0, linkTurn: 500, besideTurn: 200, gigabitTurn: gigabit / 2} {
		if have := capOf(turn, 1000, 400); have != want {
			t.Errorf("%s: a cap of %d, want %d", turn, have, want)
		}
	}
	for round := range 4 {
		if list := iopsOrder(round); len(list) != len(iopsTurns) || iopsTurns[list[len(list)-1]] != besideTurn {
			t.Errorf("round %d has the order %d: the turn that needs another one's speed has to be the last", round, list)
		}
	}
}
