// SPDX-License-Identifier: Apache-2.0

package transporttest

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func check(t *testing.T, ctx context.Context, s Suite) (results map[string]Result, sound bool) {
	t.Helper()
	results = map[string]Result{}
	sound = s.Check(ctx, func(r Result) { results[r.Name] = r })
	if len(results) != len(Clauses()) {
		t.Errorf("%d results of %d clauses", len(results), len(Clauses()))
	}
	return results, sound
}

func TestCheckTellsOfEveryClause(t *testing.T) {
	results, sound := check(t, t.Context(), Suite{Subject: func() (Subject, error) { return unixSubject(t), nil }})
	if !sound {
		t.Error("a sound transport does not pass")
	}
	for _, c := range Clauses() {
		if r := results[c.Name]; r.Clause != c || r.Err != nil || (r.Skipped != "") != (c.Name == "DialComesFromBind") {
			t.Errorf("%v", r)
		}
	}
}

func TestCheckNamesAFault(t *testing.T) {
	for _, twist := range twists {
		if twist.name != "names no network" && twist.name != "returns neither listener nor error" {
			continue
		}
		subject := func() (Subject, error) {
			s := tcpSubject(t)
			w := &twisted{Transport: s.Transport}
			s.Transport = w
			twist.apply(t, w)
			return s, nil
		}
		results, sound := check(t, t.Context(), Suite{Subject: subject, LeaveOut: func(c Clause) string {
			return map[bool]string{false: "not asked for"}[c.Name == twist.clause]
		}})
		r := results[twist.clause]
		if sound || r.Err == nil {
			t.Fatalf("a transport that %s passes", twist.name)
		}
		if text := r.String(); !strings.Contains(text, twist.says) || !strings.Contains(text, "the contract says: "+r.Says) {
			t.Errorf("the result reads %q", text)
		}
	}
}

func TestCheckSaysWhyThereIsNothingToCheck(t *testing.T) {
	gone := errors.New("the plugin is gone")
	results, sound := check(t, t.Context(), Suite{Subject: func() (Subject, error) { return Subject{}, gone }})
	if r := results["DialReachesAccept"]; sound || !errors.Is(r.Err, gone) {
		t.Errorf("%v", r)
	}
}

func TestCheckEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("the operator has had enough")
	cancel(enough)
	results, sound := check(t, ctx, Suite{Subject: func() (Subject, error) { return tcpSubject(t), nil }})
	if r := results["DialReachesAccept"]; sound || !strings.Contains(r.Skipped, enough.Error()) {
		t.Errorf("sound: %v, %v", sound, r)
	}
}

func TestEveryClauseNamesItsSentence(t *testing.T) {
	for _, c := range Clauses() {
		if c.Name == "" || len(c.Says) < 20 || strings.HasSuffix(c.Says, ".") {
			t.Errorf("%+v: a clause says where the contract has it, and what it says, without a full stop", c)
		}
	}
}
