// SPDX-License-Identifier: GPL-3.0-or-later

package owner_test

import (
	"strings"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/core/owner"
)

func TestVerdictsFollowTheOrderOfTheRecords(t *testing.T) {
	var (
		inc   = &owner.Incomplete{}
		rec   = &owner.Received{ID: x}
		next  = &owner.Departure{ID: old, To: toB}
		mig   = &owner.Departure{ID: x, To: toB}
		acked = &owner.Departure{ID: x, To: toB, Acknowledged: true}
		other = &owner.Departure{ID: x, To: toB, Unconfirmed: true}
	)
	for _, c := range []struct {
		state owner.State
		want  owner.Verdict
	}{
		{owner.State{}, owner.VerdictOwner},
		{owner.State{Received: rec}, owner.VerdictOwner},
		{owner.State{Next: next}, owner.VerdictOwner},
		{owner.State{Received: rec, Next: next}, owner.VerdictOwner},
		{owner.State{Migrated: mig}, owner.VerdictDeparting},
		{owner.State{Migrated: mig, Received: rec, Next: next}, owner.VerdictDeparting},
		{owner.State{Migrated: acked, Received: rec}, owner.VerdictDeparted},
		{owner.State{Migrated: other}, owner.VerdictDeparted},
		{owner.State{Incomplete: inc, Migrated: mig}, owner.VerdictIncomplete},
		{owner.State{Incomplete: inc, Migrated: acked, Received: rec, Next: next}, owner.VerdictIncomplete},
	} {
		if got := c.state.Verdict(); got != c.want {
			t.Errorf("%s: %v, want %v", describe(c.state), got, c.want)
		}
		if c.state.IsEmpty() != (describe(c.state) == "") {
			t.Errorf("%s: IsEmpty is %v", describe(c.state), c.state.IsEmpty())
		}
	}
}

func TestExplainSaysWhatEachRecordMeansAndWhatToRun(t *testing.T) {
	when := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	mig := owner.Departure{ID: x, To: toB, Written: when}
	acked, unlinked, other := mig, mig, mig
	acked.Acknowledged = true
	unlinked.Acknowledged, unlinked.Unlink = true, true
	other.Unconfirmed = true
	next := owner.Departure{ID: old, To: toB, Written: when}
	received := &owner.Received{ID: x, Written: when}
	plain := &owner.Incomplete{Written: when}
	touched := &owner.Incomplete{Written: when, Touched: true}
	prepared := &owner.Incomplete{Prepared: x, Written: when}
	where := "10.0.0.2:4777, /run/b.sock"

	for name, c := range map[string]struct {
		state   owner.State
		has     []string
		without []string
	}{
		"nothing": {owner.State{}, []string{"no migration records at /srv/disk.img", "flexnbd serve serves", "flexnbd listen"},
			[]string{"promote", "--ignore-migrated", "--overwrite"}},
		"plain": {owner.State{Incomplete: plain}, []string{"/srv/disk.img.INCOMPLETE (2026-01-02 03:04:05 UTC)", "torn", "flexnbd listen", "--or-serve",
			"No data has been written to this image since", "remove .INCOMPLETE"}, []string{"promote", "--ignore-migrated", "It is whole", "worth nothing"}},
		"touched": {owner.State{Incomplete: touched}, []string{"torn", "flexnbd listen", "this copy is worth nothing"}, []string{"No data has been written"}},
		"prepared": {owner.State{Incomplete: prepared, Received: received},
			[]string{"holds all of migration " + x.String(), "flexnbd promote " + x.String(), "two owners", "goes before the older records"},
			[]string{"--ignore-migrated", "may be torn"}},
		"departing": {owner.State{Migrated: &mig}, []string{"given away to " + where, "has not acknowledged it yet", "COMMIT", "exits 0",
			"serve --ignore-migrated", "Danger", "fence"}, []string{"promote", "--overwrite", "--unlink"}},
		"departed": {owner.State{Migrated: &acked, Received: received}, []string{"given away to " + where, "the right one is at /run/b.sock.", "acknowledged it",
			"flexnbd listen here", "serve --ignore-migrated", "Danger"}, []string{"promote", "COMMIT"}},
		"unlinked": {owner.State{Migrated: &unlinked}, []string{"--unlink", "remove the image and then the records"}, nil},
		"other":    {owner.State{Migrated: &other}, []string{"cannot acknowledge", "could not confirm", where, "should be at /run/b.sock."}, []string{"COMMIT"}},
		"tried": {owner.State{Next: &next}, []string{"/srv/disk.img.MIGRATED.next", "was tried", "or was made and then overridden with serve --ignore-migrated", old.String(),
			"Unless somebody promoted the copy at " + where, "listen --overwrite"}, []string{"Danger"}},
		"received": {owner.State{Received: received}, []string{"taken over", x.String(), "flexnbd serve", "listen --or-serve", "listen --overwrite"},
			[]string{"--ignore-migrated", "promote"}},
	} {
		text := c.state.Explain(beside)
		c.has = append(c.has, "neither .INCOMPLETE nor .MIGRATED beside it", "follow the .MIGRATED records to their end")
		for _, want := range c.has {
			if !strings.Contains(text, want) {
				t.Errorf("%s: it does not say %q:\n%s", name, want, text)
			}
		}
		for _, not := range c.without {
			if strings.Contains(text, not) {
				t.Errorf("%s: it says %q:\n%s", name, not, text)
			}
		}
		if strings.Contains(text, "%!") || strings.Contains(text, "\n\n\n") || strings.HasSuffix(text, "\n") || strings.Contains(text, " \n") {
			t.Errorf("%s: %q", name, text)
		}
	}
}
