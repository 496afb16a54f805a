// SPDX-License-Identifier: GPL-3.0-or-later

package compare

import (
	"io"
	"slices"
	"strings"
	"testing"
)

func TestServersAreChosenByPattern(t *testing.T) {
	all := []server{{name: "flexnbd-file", lane: "file"}, {name: "flexnbd-rpc", lane: "rpc"}, {name: "nbdkit"}, {name: "nbdkit-t4", extra: true}}
	for patterns, want := range map[string][]string{
		"":                 {"flexnbd-file", "flexnbd-rpc", "nbdkit"},
		"flexnbd-*":        {"flexnbd-file", "flexnbd-rpc"},
		"nbdkit*":          {"nbdkit"},
		"nbdkit-t4,nbdkit": {"nbdkit", "nbdkit-t4"},
	} {
		chosen, err := selectServers(all, split(patterns))
		if err != nil {
			t.Errorf("%q: %v", patterns, err)
		}
		var have []string
		for _, s := range chosen {
			have = append(have, s.name)
		}
		if !slices.Equal(have, want) {
			t.Errorf("%q chooses %q, want %q", patterns, have, want)
		}
	}
	if _, err := selectServers(all, []string{"nbdkit", "qemu"}); err == nil || !strings.Contains(err.Error(), "-server qemu") {
		t.Errorf("a server that is not there: %v", err)
	}
}

func TestMissingServersNameTheirPackages(t *testing.T) {
	err := checkInstalled([]server{
		{name: "a", binary: "no-such-program-a", debian: "package-a"},
		{name: "shell", binary: "sh", debian: "dash"},
		{name: "b", binary: "no-such-program-b", debian: "package-b"},
	})
	if err == nil || !strings.Contains(err.Error(), "apt-get install package-a package-b") || strings.Contains(err.Error(), "dash") {
		t.Errorf("the error is %v", err)
	}
	if err := checkInstalled(nil); err != nil {
		t.Error(err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for arguments, want := range map[string]string{
		"-rounds 0":  "-rounds",
		"-slice 1us": "-slice",
		"-size 1":    "-size",
		"more":       "unexpected argument",
		"-nonsense":  "nonsense",
	} {
		if _, err := parseOptions(strings.Fields(arguments), io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", arguments, err)
		}
	}
}

func TestOnlyAWholeRunReplacesTheCommittedResults(t *testing.T) {
	for arguments, want := range map[string]string{
		"":                       defaultOut,
		"-rounds 3":              defaultOut,
		"-scenario r4k":          "",
		"-medium tmpfs":          "",
		"-server nbdkit":         "",
		"-medium tmpfs -out dir": "dir",
	} {
		if o, err := parseOptions(strings.Fields(arguments), io.Discard); err != nil || o.Out != want {
			t.Errorf("%q writes to %q (%v), want %q", arguments, o.Out, err, want)
		}
	}
}

func TestScenariosAndMediaAreChosenByName(t *testing.T) {
	if chosen, err := selectScenarios("^r4k"); err != nil || len(chosen) != 3 {
		t.Errorf("^r4k chooses %v, %v", chosen, err)
	}
	for _, bad := range []string{"nothing", "("} {
		if _, err := selectScenarios(bad); err == nil {
			t.Errorf("scenario %q is accepted", bad)
		}
	}
	if chosen, err := selectMedia([]string{"loop", "tmpfs"}); err != nil || len(chosen) != 2 || chosen[0].name != "loop" {
		t.Errorf("loop, tmpfs chooses %v, %v", chosen, err)
	}
	if _, err := selectMedia([]string{"floppy"}); err == nil || !strings.Contains(err.Error(), "uncached") {
		t.Errorf("a medium that is not there: %v", err)
	}
}

func TestEveryGoalIsOfAScenarioAndALane(t *testing.T) {
	for _, goals := range []map[string]map[string]goal{rateGoals, cpuGoals} {
		for lane, list := range goals {
			if !slices.Contains(lanes, lane) {
				t.Errorf("there is no lane %s", lane)
			}
			for name := range list {
				if !slices.ContainsFunc(scenarios, func(s scenario) bool { return s.name == name }) {
					t.Errorf("there is no scenario %s", name)
				}
			}
		}
	}
}
