// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/test/journal"
)

// What goes wrong at a destination once the migration has started is no business of
// the source's clients: the source tries again until it succeeds.

// faulty is a migration under load whose destination is about to have a fault.
type faulty struct {
	t            *testing.T
	disk         *journal.Disk
	data, copied string
	source       *server
	destination  *server
	load         *runningLoad
}

const faultySize = 16 << 20

// newFaulty starts a migration that takes seconds, to a destination that serves the
// disk at the address where it arrives.
func newFaulty(t *testing.T, copied string, arguments ...string) *faulty {
	t.Helper()
	f := &faulty{t: t, disk: journal.NewDisk(faultySize), copied: copied}
	f.data = filledFile(t, f.disk, faultySize)
	f.source = serve(t, "--file", f.data)
	f.destination = listenIn(t, atPort("127.0.0.1", freePort(t)), append([]string{"--file", copied}, arguments...)...)
	f.load = startLoad(t, f.disk, journal.Options{
		Servers: at(f.source, f.destination), Seed: 3, BytesPerSecond: 8 << 20, Connections: 2,
	})
	f.load.more(20)
	f.source.mirror(f.destination.addr, "--max-speed", "500K")
	f.source.copies(256 << 10)
	return f
}

// again starts the destination anew, as a service manager would.
func (f *faulty) again() {
	f.t.Helper()
	f.destination = listenIn(f.t, atPort("127.0.0.1", portOf(f.t, f.destination.addr)), "--or-serve", "--file", f.copied)
}

// succeeds lets the migration come to its end, until which clients have noticed
// nothing.
func (f *faulty) succeeds() {
	f.t.Helper()
	f.load.unnoticed()
	f.source.hurry()
	f.source.departs()
	f.destination.arrives()
	f.load.answeredBy(f.destination, 20)
	f.load.stop()
	checkFile(f.t, f.disk, f.copied)
	wantRecords(f.t, f.data, "MIGRATED")
	wantRecords(f.t, f.copied, "RECEIVED")
}

// A destination that is killed and comes back, more than once, gets all of the disk.
func TestMigrateOverADestinationThatDies(t *testing.T) {
	t.Parallel()
	f := newFaulty(t, sparseFile(t, faultySize))
	for range 2 {
		tried := f.source.attempts()
		f.destination.kill()
		f.source.triesAgain(tried + 1)
		f.source.fails("Mirror failed to connect")
		f.load.more(20)
		wantRecords(t, f.copied, "INCOMPLETE")
		f.again()
		f.source.copies(256 << 10)
	}
	f.succeeds()
}

// Attempt follows attempt after a second: clients do not pay for a fault of the
// destination, and nobody waits for long once it is back.
func TestMigrateTriesAgainEachSecond(t *testing.T) {
	t.Parallel()
	source := serve(t, "--file", dataFile(t, 1<<20))
	destination := listen(t, "--file", sparseFile(t, 1<<20))
	source.mirror(destination.addr, "--max-speed", "100K")
	destination.kill()
	source.triesAgain(1) // refused at once
	begin, tried := time.Now(), source.attempts()
	source.triesAgain(tried + 2)
	if took := time.Since(begin); took < 1900*time.Millisecond || took > 10*time.Second {
		t.Errorf("three attempts took %v, want about a second for each", took)
	}
	source.breaks(0, "mirror stopped")
}

// One that is stopped is taken for dead after 10 seconds, and replaced by nothing: it
// goes on, and the next attempt reaches it.
func TestMigrateOverADestinationThatHangs(t *testing.T) {
	t.Parallel()
	f := newFaulty(t, sparseFile(t, faultySize))
	resume := f.destination.suspend()
	f.source.triesAgain(1) // which finds no answer either
	f.load.more(20)
	resume()
	f.source.reaches("migration_state", "copying")
	f.succeeds()
}

// The same for one that is killed while it is stopped.
func TestMigrateOverADestinationThatHangsAndDies(t *testing.T) {
	t.Parallel()
	f := newFaulty(t, sparseFile(t, faultySize))
	f.destination.suspend()
	f.load.more(20)
	tried := f.source.attempts()
	f.destination.kill()
	f.source.triesAgain(tried)
	f.again()
	f.succeeds()
}

// A destination without space is told to the operator, and there is another attempt
// once there is space.
func TestMigrateToAFullFileSystem(t *testing.T) {
	t.Parallel()
	needsRoot(t, "mount a file system")
	dir := mountAt(t, "-t", "tmpfs", "-o", "size=18M", "none")
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(dir, "copied")
	if err := os.WriteFile(copied, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(copied, faultySize); err != nil {
		t.Fatal(err)
	}
	f := newFaulty(t, copied)
	f.source.hurry()
	f.source.fails("no space left on device")
	must(t, programs.flexnbd, "mirror-speed", "--sock", f.source.sock, "--max-speed", "500K")
	f.load.more(20)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	f.succeeds()
	f.destination.stop(syscall.SIGTERM) // before its file system is gone
}

// A destination that can't make durable what it has got does not prepare itself, and
// the source keeps its disk.
func TestMigrateToADiskThatCannotFlush(t *testing.T) {
	t.Parallel()
	data := dataFile(t, 1<<20)
	source := serve(t, "--file", data)
	trace := filepath.Join(t.TempDir(), "trace")
	destination := start(t, surroundings{}, "listen", "--state-dir", t.TempDir(), "--disk-id", "failing",
		"--file", "1048576", "--backend", programs.traced+",fail=flush,trace="+trace)
	destination.waitReady()
	source.mirror(destination.addr)
	source.fails("nput/output error")
	source.reaches("migration_state", "waiting-to-retry")
	if got := source.read(t, 0, 512); string(got) != string(source.file(t, data)[:512]) {
		t.Error("read is not what is in the file")
	}
	must(t, programs.flexnbd, "break", "--sock", source.sock)
	if state := destination.state(); state["has_control"] != "false" {
		t.Errorf("the destination has control: %v", state)
	}
	destination.signal(syscall.SIGTERM)
	destination.wait() // its last flush fails as well
}

// A destination whose disk fails is tried again until it does not.
func TestMigrateToADiskThatFails(t *testing.T) {
	t.Parallel()
	disk := journal.NewDisk(faultySize)
	data := filledFile(t, disk, faultySize)
	source := serve(t, "--file", data)
	broken := filepath.Join(t.TempDir(), "broken")
	destination := listen(t, "--state-dir", t.TempDir(), "--disk-id", "failing",
		"--file", itoa(faultySize), "--backend", programs.traced+",broken="+broken)
	load := startLoad(t, disk, journal.Options{Servers: at(source, destination), Seed: 12, BytesPerSecond: 8 << 20})
	source.mirror(destination.addr, "--max-speed", "500K")
	source.copies(256 << 10)
	if err := os.WriteFile(broken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	source.fails("nput/output error")
	load.more(20)
	load.unnoticed()
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	source.hurry()
	source.departs()
	destination.arrives()
	load.answeredBy(destination, 20)
	load.stop()
	copied := filepath.Join(t.TempDir(), "copied")
	must(t, "nbdcopy", destination.uri(), copied)
	checkFile(t, disk, copied)
}
