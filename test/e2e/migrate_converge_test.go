// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"os"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/test/journal"
)

// The limit is low, and the test alone, so that clients are faster on any machine.
func TestMigrateConverges(t *testing.T) {
	migrateConverges(t, 4<<20, 60<<20, "4M")
}

// Clients that write three times as fast as the migration may send don't keep it from
// its end: from some time on their writes wait for the destination. (That it does not
// end without that is a test of core/mirror, which can switch it off.)
func migrateConverges(t *testing.T, size, clients int64, limit string) {
	t.Helper()
	disk := journal.NewDisk(size)
	data, copied := filledFile(t, disk, size), sparseFile(t, size)
	source := serve(t, "--file", data)
	destination := listen(t, "--file", copied)
	load := startLoad(t, disk, journal.Options{
		Servers: at(source, destination), Seed: 10, BytesPerSecond: clients,
		Reads: 0, Writes: 1, Zeroes: 0, Smallest: 64 << 10, Largest: 64 << 10, Align: 64 << 10, Hot: -1,
	})
	load.more(100)

	// Stopped in the middle of it, it lets its clients write as they did before.
	source.mirror(destination.addr, "--max-speed", limit)
	source.reaches("migration_state", "write-through")
	source.breaks(0, "mirror stopped")
	load.more(100)
	load.unnoticed()

	begin := time.Now()
	source.mirror(destination.addr, "--max-speed", limit)
	source.reaches("migration_state", "write-through")
	source.departs()
	took := time.Since(begin)
	destination.arrives()
	// Two passes that do not shrink what is left, and all of it at half the limit.
	if most := 30 * time.Second; took > most {
		t.Errorf("the migration took %v, want at most %v", took, most)
	}
	load.answeredBy(destination, 100)
	load.stop()
	checkFile(t, disk, copied)
}

// A client that stops in the middle of a long write holds up nobody, and one that is
// cut there leaves the same bytes on both sides.
func TestMigrateOverAStalledWrite(t *testing.T) {
	t.Parallel()
	const size, part = 1 << 30, 5<<20 + 777
	data, copied := sparseFile(t, size), sparseFile(t, size)
	source := serve(t, "--file", data)
	destination := listen(t, "--file", copied)
	stalled, cut := source.pipeline(), source.pipeline()
	content := fastBytes(11, part)
	source.write(t, fastBytes(12, 1<<20), 800<<20)
	source.mirror(destination.addr, "--max-speed", "10K")
	source.reaches("migration_state", "copying")

	stalled.send(nbd.Request{Command: nbd.CmdWrite, Offset: 0, Length: size}, content)
	cut.send(nbd.Request{Command: nbd.CmdWrite, Offset: 512 << 20, Length: size / 4}, content)
	cut.close()
	for _, off := range []int64{0, 512 << 20} {
		eventually(t, "a part of the write is on the disk", func() bool { return !isZero(t, data, off, 4<<20) })
	}
	eventually(t, "the client that was cut is gone", func() bool { return source.state()["num_clients"] == "1" })

	begin := time.Now()
	source.hurry()
	source.departs()
	if took := time.Since(begin); took > 25*time.Second {
		t.Errorf("the stalled client has held up the migration for %v", took)
	}
	destination.arrives()
	for _, off := range []int64{0, 512 << 20, 800 << 20} {
		wantSameRange(t, data, copied, off, 16<<20)
	}
	if is, was := allocated(t, copied), allocated(t, data); is > was+was/50 || is < was-was/50 {
		t.Errorf("the copy takes %d bytes of space, the original %d", is, was)
	}
}

func readRange(t *testing.T, path string, off int64, n int) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	return b
}

func isZero(t *testing.T, path string, off int64, n int) bool {
	t.Helper()
	for _, b := range readRange(t, path, off, n) {
		if b != 0 {
			return false
		}
	}
	return true
}

func wantSameRange(t *testing.T, one, other string, off int64, n int) {
	t.Helper()
	if string(readRange(t, one, off, n)) != string(readRange(t, other, off, n)) {
		t.Errorf("the two images differ in the %d bytes from %d on", n, off)
	}
}
