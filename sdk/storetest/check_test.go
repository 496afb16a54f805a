// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/store"
)

// check returns the results by name.
func check(t *testing.T, ctx context.Context, s Suite) (results map[string]Result, sound bool) {
	t.Helper()
	results = map[string]Result{}
	sound = s.Check(ctx, func(r Result) {
		if _, twice := results[r.Name]; twice {
			t.Errorf("%s has two results", r.Name)
		}
		results[r.Name] = r
	})
	return results, sound
}

func inMemory(_ testing.TB, size int64) store.Store { return memstore.New(size) }

func TestCheckTellsOfEveryClause(t *testing.T) {
	results, sound := check(t, t.Context(), Suite{Open: inMemory})
	if !sound {
		t.Error("a sound store does not pass")
	}
	for _, c := range Clauses() {
		r, ok := results[c.Name]
		if !ok || r.Err != nil || r.Clause != c {
			t.Errorf("%s: %+v", c.Name, r)
		}
		if lender := strings.HasPrefix(c.Name, "L") && c.Name != "LargeRequestsPassWhole"; lender != (r.Skipped == "the store lends no descriptor") {
			t.Errorf("%s: left out because %q", c.Name, r.Skipped)
		}
	}
	if len(results) != len(Clauses()) {
		t.Errorf("%d results of %d clauses", len(results), len(Clauses()))
	}
	if r := results["ReadOnlyDiskRefusesChanges"]; r.Skipped != "the disk is not read-only" {
		t.Errorf("left out because %q", r.Skipped)
	}
}

func TestCheckNamesAFault(t *testing.T) {
	for _, breakage := range breakages {
		if breakage.does != "ignores punches" && breakage.does != "cannot flush" && breakage.does != "writes at most 64 KiB" {
			continue
		}
		open := func(_ testing.TB, size int64) store.Store {
			b := breakage.make()
			b.Store = memstore.New(size)
			return b
		}
		results, sound := check(t, t.Context(), Suite{Open: open, LeaveOut: func(c Clause) string {
			return unless(c.Name == breakage.clause, "not asked for")
		}})
		r := results[breakage.clause]
		if sound || r.Err == nil {
			t.Fatalf("a store that %s passes", breakage.does)
		}
		if text := r.String(); !strings.Contains(text, "FAILED    "+breakage.clause) || !strings.Contains(text, "the contract says: "+r.Says) {
			t.Errorf("the result reads %q", text)
		}
	}
}

func TestCheckWithoutADiskSaysWhy(t *testing.T) {
	results, sound := check(t, t.Context(), Suite{Open: func(t testing.TB, _ int64) store.Store {
		t.Fatal("the shelf is empty")
		return nil
	}})
	if r := results[opening.name]; sound || r.Err == nil || !strings.Contains(r.String(), "the shelf is empty") {
		t.Errorf("sound: %v, %v", sound, r)
	}
	if r := results["WritesReadBack"]; r.Skipped == "" {
		t.Errorf("a clause was checked without a disk: %v", r)
	}
}

func TestOneDiskAtATime(t *testing.T) {
	for _, size := range []int64{0, 2 << 20} {
		open := 0
		results, sound := check(t, t.Context(), Suite{OneAtATime: true, FixedSize: size, Open: func(t testing.TB, size int64) store.Store {
			if open++; open > 1 {
				t.Errorf("%d disks are open at once", open)
			}
			return &broken{Store: memstore.New(size), close: func(s mem) error { open--; return s.Close() }}
		}})
		if !sound {
			t.Errorf("of fixed size %d: %v", size, results)
		}
		if r := results["EveryByteOfAnOddSizeIsThere"]; (r.Skipped == "the disk's size is fixed") != (size != 0) {
			t.Errorf("of fixed size %d: left out because %q", size, r.Skipped)
		}
	}
}

func TestLeaveOutIsHeeded(t *testing.T) {
	results, sound := check(t, t.Context(), Suite{Open: inMemory, LeaveOut: func(c Clause) string {
		return unless(c.Name == "WritesReadBack", "not asked for")
	}})
	for name, r := range results {
		if (name == "WritesReadBack") != (r.Skipped == "") || r.Err != nil {
			t.Errorf("%v", r)
		}
	}
	if !sound {
		t.Error("not sound")
	}
}

// hanging is a store whose flush waits for the clause to be given up.
func hanging(t testing.TB, size int64) store.Store {
	return &broken{Store: memstore.New(size), flush: func(mem, ctxt) error {
		<-t.Context().Done()
		return context.Cause(t.Context())
	}}
}

func TestCheckGivesUpACallThatHangs(t *testing.T) {
	results, sound := check(t, t.Context(), Suite{Open: hanging, Limit: time.Second, LeaveOut: func(c Clause) string {
		return unless(c.Name == "FlushSucceedsAndKeepsData" || c.Name == "WritesReadBack", "not asked for")
	}})
	if r := results["FlushSucceedsAndKeepsData"]; sound || !errors.Is(r.Err, ErrGivenUp) {
		t.Errorf("sound: %v, %v", sound, r)
	}
	if r := results["WritesReadBack"]; r.Err != nil || r.Skipped != "" {
		t.Errorf("%v", r)
	}
}

func TestCheckEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("the operator has had enough")
	time.AfterFunc(50*time.Millisecond, func() { cancel(enough) })
	results, sound := check(t, ctx, Suite{Open: hanging})
	if sound {
		t.Error("a check that was given up is sound")
	}
	first := results["InfoIsPossibleAndDoesNotChange"]
	if !errors.Is(first.Err, enough) && !strings.Contains(first.Skipped, enough.Error()) {
		t.Errorf("%v", first)
	}
	if r := results["WritesReadBack"]; !strings.Contains(r.Skipped, enough.Error()) {
		t.Errorf("%v", r)
	}
}

func TestEveryClauseNamesItsSentence(t *testing.T) {
	for _, c := range Clauses() {
		if c.Name == "" || len(c.Says) < 20 || strings.HasSuffix(c.Says, ".") {
			t.Errorf("%+v: a clause says where the contract has it, and what it says, without a full stop", c)
		}
	}
}
