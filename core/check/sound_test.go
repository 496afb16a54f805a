// SPDX-License-Identifier: GPL-3.0-or-later

package check

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/storetest"
	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/transporttest"
)

// results are by path.
type results map[string]Result

// check runs a check.
func check(t *testing.T, ctx context.Context, config Config) (results, error) {
	t.Helper()
	all := results{}
	err := Run(ctx, config, func(r Result) {
		if _, twice := all[r.Path()]; twice {
			t.Errorf("%s has two results", r.Path())
		}
		if r.Name == "" || r.Says == "" {
			t.Errorf("a result without a name or without what the contract says: %+v", r)
		}
		all[r.Path()] = r
	})
	return all, err
}

// sound runs a check that has to pass, and wants these clauses left out, by the reason,
// and no others.
func sound(t *testing.T, config Config, leftOut map[string]string) results {
	t.Helper()
	all, err := check(t, t.Context(), config)
	if err != nil {
		t.Errorf("a sound plugin: %v", err)
	}
	for path, r := range all {
		if r.Err != nil {
			t.Errorf("%v", r)
		}
		if want := leftOut[path]; (want == "") != (r.Skipped == "") || !strings.Contains(r.Skipped, want) {
			t.Errorf("%s: left out because %q, want %q", path, r.Skipped, want)
		}
	}
	for path := range leftOut {
		if _, ok := all[path]; !ok {
			t.Errorf("%s has no result", path)
		}
	}
	return all
}

// those lists reasons for leaving out clauses in one part.
func those(leftOut map[string]string, part, why string, names ...string) {
	for _, name := range names {
		leftOut[part+"/"+name] = why
	}
}

var (
	lenders   = []string{"LentDescriptorFitsTheFacts", "LentBytesAreTheDisks", "LentNeighboursAreLeftAlone"}
	otherSize = []string{"EveryByteOfAnOddSizeIsThere", "DiskOfNoBytesWorks"}
)

const lenderAlone = "LoanIsOutUntilItIsReturned"

// readOnlyLeavesOut is what a read-only disk is not asked for.
func readOnlyLeavesOut(leftOut map[string]string) {
	for _, c := range storetest.Clauses() {
		leftOut["read-only/"+c.Name] = "the disk is read-only"
	}
	for _, name := range []string{"InfoIsPossibleAndDoesNotChange", "CloseSucceeds", "FreshDiskReadsZeroIntoWholeBuffer", "ExtentsAreContiguousAndInRange",
		"ExtentsCoverTheDiskInTurns", "FlushSucceedsAndKeepsData", "EndedContextReturnsPromptly", "ReadOnlyDiskRefusesChanges"} {
		delete(leftOut, "read-only/"+name)
	}
	those(leftOut, "read-only", "are lent on lane file", append(lenders, lenderAlone)...)
	those(leftOut, "read-only", "Info.CanExtents is set", "ExtentsAreAllDataUnlessAnnounced")
}

func TestFileBackendPasses(t *testing.T) {
	t.Parallel()
	leftOut := map[string]string{}
	for _, part := range []string{"lane rpc", "lane file"} {
		those(leftOut, part, "not read-only", "ReadOnlyDiskRefusesChanges")
		those(leftOut, part, "Info.CanExtents is set", "ExtentsAreAllDataUnlessAnnounced")
		if part != "lane file" {
			those(leftOut, part, "are lent on lane file", append(lenders, lenderAlone)...)
		}
	}
	those(leftOut, "lane file", "nobody outside the plugin", lenderAlone)
	readOnlyLeavesOut(leftOut)
	// Of lane ring there is all in the next test, but for what outlives a process.
	only := regexp.MustCompile("^(process|read-only|lane rpc|lane file)/|^lane ring/(Lane|Killed|Random)")
	all := sound(t, Config{Program: built(t, "flexnbd-backend-file"), Location: image, Only: only}, leftOut)
	for _, lane := range []string{"rpc", "ring", "file"} {
		if _, ok := all["lane "+lane+"/KilledProcessIsReplaced"]; !ok {
			t.Errorf("no process was killed on lane %s", lane)
		}
	}
}

func TestNothingIsLeft(t *testing.T) {
	dir, err := os.MkdirTemp("", "fc") // short enough for sockets
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	t.Setenv("TMPDIR", dir)
	for name, only := range map[string]string{
		"flexnbd-backend-file":   "^process/|/(WritesReadBack|KilledProcessIsReplaced|EveryByteOfAnOddSizeIsThere|ReadOnlyDiskRefusesChanges)$",
		"flexnbd-transport-unix": "^process/|/(ConnectsAtTheAddress|DialReachesAccept|CloseStopsListening)$",
	} {
		config := Config{Program: built(t, name), Location: image, Address: transport.Address{Addr: "{dir}/socket"}, Only: regexp.MustCompile(only)}
		if _, err := check(t, t.Context(), config); err != nil {
			t.Error(err)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left in the folder for temporary files (error %v): %v", err, left)
	}
}

func TestMemoryBackendPasses(t *testing.T) {
	t.Parallel()
	leftOut := map[string]string{"lane file/LaneIsThere": "it does not lend its descriptor"}
	for _, part := range []string{"lane rpc", "lane ring"} {
		those(leftOut, part, "not read-only", "ReadOnlyDiskRefusesChanges")
		those(leftOut, part, "Info.CanExtents is set", "ExtentsAreAllDataUnlessAnnounced")
		those(leftOut, part, "are lent on lane file", append(lenders, lenderAlone)...)
		those(leftOut, part, "nothing to look for", "KilledProcessIsReplaced")
	}
	leftOut["read-only/ReadOnlyDiskIsThere"] = "flexnbd itself refuses changes then"
	sound(t, Config{Program: built(t, "flexnbd-backend-memory"), Location: "{size}"}, leftOut)
}

// TestOneDiskIsUsedAgainAndAgain: everything on it is lost, and nothing beside it.
func TestOneDiskIsUsedAgainAndAgain(t *testing.T) {
	t.Parallel()
	const size = 3<<20 + 512
	path := filepath.Join(t.TempDir(), "image")
	content := make([]byte, size)
	for i := range content {
		content[i] = 0xa5
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := check(t, t.Context(), Config{Program: built(t, "flexnbd-backend-file"), Location: path, Only: regexp.MustCompile("^(process|read-only)/|^lane file/(Info|Close|Fresh|Writes|Every|DiskOf|Extents|Random|Lent|Killed|Flexnbd)")})
	if err != nil {
		t.Error(err)
	}
	for path, r := range all {
		if r.Err != nil {
			t.Errorf("%v", r)
		}
		if strings.HasPrefix(path, "lane rpc") || strings.HasPrefix(path, "lane ring") {
			t.Errorf("%s was not asked for", path)
		}
	}
	for _, name := range otherSize {
		if r := all["lane file/"+name]; r.Skipped != "the disk's size is fixed" {
			t.Errorf("%v", r)
		}
	}
	if r := all["lane file/RandomOperationsMatchAModel"]; r.Name == "" || r.Skipped != "" {
		t.Errorf("%v", r)
	}
}

func TestTransportsPass(t *testing.T) {
	for _, c := range []struct {
		name    string
		address transport.Address
		leftOut map[string]string
	}{
		{"flexnbd-transport-tcp", transport.Address{Addr: "127.0.0.1"}, nil},
		{"flexnbd-transport-unix", transport.Address{Addr: "{dir}/socket"}, map[string]string{"transport/DialComesFromBind": "no other address"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := sound(t, Config{Program: built(t, c.name), Address: c.address}, c.leftOut)
			for _, clause := range transporttest.Clauses() {
				if _, ok := all["transport/"+clause.Name]; !ok {
					t.Errorf("%s has no result", clause.Name)
				}
			}
		})
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("the operator has had enough")
	seen := 0
	err := Run(ctx, Config{Program: built(t, "flexnbd-backend-memory"), Location: "{size}"}, func(r Result) {
		if seen++; r.Path() == "lane rpc/CloseSucceeds" {
			cancel(enough)
		}
		if r.Part == "lane ring" {
			t.Errorf("after the end: %v", r)
		}
	})
	if !errors.Is(err, enough) || errors.Is(err, ErrBroken) {
		t.Errorf("error %v after %d results", err, seen)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for want, config := range map[string]Config{
		"no disk to check":          {Program: built(t, "flexnbd-backend-memory")},
		"no address to check":       {Program: built(t, "flexnbd-transport-tcp")},
		"of kind \"unknown\"":       {},
		"no clause has the name":    {Program: built(t, "flexnbd-backend-memory"), Location: "{size}", Only: regexp.MustCompile("^nothing$")},
		"clauses that were checked": {Program: built(t, "flexnbd-backend-file"), Location: "/does/not/exist"},
	} {
		if _, err := check(t, t.Context(), config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	if kind, err := KindOf("/x/flexnbd-backend-Bad_Name"); err == nil || !strings.Contains(err.Error(), "rename it") {
		t.Errorf("kind %v, error %v", kind, err)
	}
}
