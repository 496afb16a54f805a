// SPDX-License-Identifier: GPL-3.0-or-later

package check

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/core/host"
	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// faults are broken plugins, each with the clause that has to name the fault.
var faults = []struct {
	does     string
	program  func(t *testing.T) host.Program
	location string
	path     string // of the clause
	says     string // what its error must contain
}{
	{"ends before its handshake", role("broken-mute"), image, "process/StartsAndSaysWhatItIs", "its last words: \"no licence found\""},
	{"has another name than its file", named("honest", "broken-errno"), image, "process/NameIsTheFiles", "it calls itself \"broken\""},
	{"has facts that can't be", role("broken-liar"), image, "process/OpensTheDisk", "preferred block 3"},
	{"does not open the disk", role("broken-errno"), "/does/not/exist", "process/OpensTheDisk", "no such file"},
	{"ends on a signal", script("%s"), image, "process/SignalsOfATerminalDoNotEndIt", "SIG"},
	{"prints on standard output", script("(sleep 0.1; echo mounted) & exec %s"), image, "process/StandardOutputHasTheHandshakeAlone", `"mounted\n"`},
	{"outlives its host", script(`n=$(cat "$0.n" || echo 0); echo $((n + 1)) >"$0.n"; %s; [ $n -lt 2 ] || sleep 60`), image, "process/EndsWithItsHost", "had to be killed"},
	{"refuses writes with a vague error", role("broken-errno"), image, "read-only/ReadOnlyDiskRefusesChanges", "input/output error"},
	{"flips a bit", role("broken-flip"), image, "lane rpc/WritesReadBack", "reads as"},
	{"flips a bit", role("broken-flip"), image, "lane ring/WritesReadBack", "reads as"},
	{"ignores punches", role("broken-punch"), image, "lane rpc/PunchedRangeReadsZero", "want 0x00"},
	{"crashes at a punch", role("broken-crash"), image, "lane rpc/PunchChangesItsRangeOnly", "started 20 times"},
	{"hangs in a flush", role("broken-hang"), image, "lane rpc/FlushSucceedsAndKeepsData", "it has not ended within"},
	{"says that memory survives", role("broken-memory"), "{size}", "lane rpc/KilledProcessIsReplaced", "flushed before its process was killed"},
	{"says that its cache survives", role("broken-cache"), image, "lane rpc/KilledProcessIsReplaced", "acknowledged and not flushed"},
	{"lends another file", role("broken-loan"), image, "lane file/LentBytesAreTheDisks", "reads as"},
	{"does not know who dialled", transportRole("broken-transport"), "127.0.0.1", "transport/PeerIsWhoDialled", `peer is "somebody"`},
	{"does not listen", transportRole("broken-unlistener"), "127.0.0.1", "transport/ConnectsAtTheAddress", "nowhere to listen at 127.0.0.1"},
}

const image = "{dir}/disk"

func role(role string) func(*testing.T) host.Program { return named("broken", role) }

func named(name, role string) func(*testing.T) host.Program {
	return func(t *testing.T) host.Program { return self(t, wire.KindBackend, name, role) }
}

func transportRole(role string) func(*testing.T) host.Program {
	return func(t *testing.T) host.Program { return self(t, wire.KindTransport, "broken", role) }
}

// script makes a shell script around the stock backend, whose path goes into the format.
func script(format string) func(*testing.T) host.Program {
	return func(t *testing.T) host.Program {
		path := filepath.Join(t.TempDir(), "flexnbd-backend-file")
		text := "#!/bin/sh\n" + fmt.Sprintf(format, filepath.Join(binaries, "flexnbd-backend-file")) + "\n:\n"
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		return at(t, path)
	}
}

func TestEachFaultIsNamed(t *testing.T) {
	for _, f := range faults {
		t.Run(f.does+" "+strings.ReplaceAll(f.path, "/", " "), func(t *testing.T) {
			t.Parallel()
			config := Config{
				Program: f.program(t), Location: f.location, Address: transport.Address{Addr: f.location},
				Only: regexp.MustCompile("^" + regexp.QuoteMeta(f.path) + "$"),
			}
			if f.does == "hangs in a flush" {
				config.Limit = time.Second
			}
			all, err := check(t, t.Context(), config)
			if !errors.Is(err, ErrBroken) {
				t.Errorf("Run returns %v", err)
			}
			r := all[f.path]
			if r.Err == nil {
				t.Fatalf("a plugin that %s passes: %v", f.does, all)
			}
			if text := r.String(); !strings.Contains(text, f.says) || !strings.Contains(text, "the contract says: "+r.Says) {
				t.Errorf("the result reads\n%s\nand should have %q", text, f.says)
			}
			t.Log(r)
		})
	}
}
