// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/fdstore/looptest"
	"github.com/flexnbd/flexnbd/test/journal"
)

// movable is a disk that can be one end of a migration.
type movable struct {
	setting
	arguments []string // that serve it
	path      string   // what has its bytes; "" for one in memory
	image     string   // the file that takes its space; "" for one in memory
}

// newMovable makes an empty disk with a place of its own for records.
func newMovable(t *testing.T, b setting, size int64) *movable {
	t.Helper()
	m := &movable{setting: b}
	state := []string{"--state-dir", t.TempDir()}
	switch b.name {
	case "file":
		m.path = sparseFile(t, size)
		m.image = m.path
		m.arguments = []string{"--file", m.path}
	case "blockdev":
		loop := looptest.New(t, looptest.Options{Size: size})
		m.path, m.image = loop.Path, loop.Image
		m.arguments = append(state, "--file", m.path)
	default:
		m.arguments = append(state, "--file", strconv.FormatInt(size, 10), "--backend", programs.memory, "--disk-id", "moving")
	}
	m.arguments = append(m.arguments, "--lane", b.lane)
	return m
}

// fill writes the first half of a disk that is not in memory. One in memory gets all
// of its data from its clients.
func (m *movable) fill(t *testing.T, disk *journal.Disk) {
	t.Helper()
	if m.path == "" {
		return
	}
	f, err := os.OpenFile(m.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := disk.Fill(f, 0, disk.Size()/2); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// content is a file with the disk's bytes. A disk in memory is read through the
// server.
func (m *movable) content(t *testing.T, s *server) string {
	t.Helper()
	if m.path != "" {
		return m.path
	}
	path := filepath.Join(t.TempDir(), "content")
	must(t, "nbdcopy", s.uri(), path)
	return path
}

var (
	fileRing     = setting{fileBackend, laneRing, "tcp"}
	fileRPC      = setting{fileBackend, laneRPC, "tcp"}
	blockdev     = setting{blockdevBackend, laneFile, "tcp"}
	blockdevRing = setting{blockdevBackend, laneRing, "tcp"}
	blockdevRPC  = setting{blockdevBackend, laneRPC, "tcp"}
)

// everyPair has each storage as a source and as a destination of each, and each lane
// at both ends.
var everyPair = []struct{ from, to setting }{
	{fileOnFile, fileOnFile}, {fileRing, fileRPC}, {fileOnFile, blockdev}, {fileRPC, memoryOnRing},
	{blockdev, fileRing}, {blockdev, blockdev}, {blockdevRing, blockdevRPC}, {blockdevRPC, memoryOnRPC},
	{memoryOnRing, fileOnFile}, {memoryOnRPC, blockdev}, {memoryOnRing, memoryOnRing},
}

// From every kind of storage to every other, while clients use the disk: afterwards
// the destination has exactly what was acknowledged, and takes no more space.
func TestMigrateLive(t *testing.T) {
	t.Parallel()
	needs(t, "nbdcopy")
	for _, pair := range everyPair {
		t.Run(pair.from.name+"-"+pair.from.lane+"/"+pair.to.name+"-"+pair.to.lane, func(t *testing.T) {
			t.Parallel()
			migrateLive(t, pair.from, pair.to, 64<<20, 1)
		})
	}
}

// migrateLive migrates a disk under load.
func migrateLive(t *testing.T, from, to setting, size int64, seed uint64) {
	t.Helper()
	disk := journal.NewDisk(size)
	old, young := newMovable(t, from, size), newMovable(t, to, size)
	old.fill(t, disk)
	source, destination := serve(t, old.arguments...), listen(t, young.arguments...)
	source.wantLane(from.lane)
	destination.wantLane(to.lane)
	load := startLoad(t, disk, journal.Options{Servers: at(source, destination), Seed: seed})
	load.more(200)
	readers := startFio(t, source, "--rw=randread", "--bs=4k", "--iodepth=8", "--rate_iops=2000", "--size="+strconv.FormatInt(size, 10), "--time_based", "--runtime=1h")

	source.mirror(destination.addr, "--max-speed", "200K")
	source.reaches("migration_state", "copying")
	load.more(100)
	load.unnoticed()
	readers.stillRuns()
	source.hurry()
	source.departs()
	destination.arrives()
	load.answeredBy(destination, 100)
	load.stop()
	<-readers.ended // with an error: fio does not connect again
	for _, b := range load.Breaks() {
		if b.Server.Address != source.addr {
			t.Errorf("a client has lost the new server: %v", b)
		}
	}

	checkFile(t, disk, young.content(t, destination))
	if turns := disk.Served(); len(turns) != 2 || turns[0] != source.addr || turns[1] != destination.addr {
		t.Errorf("the servers took turns as %v, want %v", turns, []string{source.addr, destination.addr})
	}
}

// What clients do not write is not written: after a migration the copy takes the space
// of the original, also of what was written, and zeroed, while it was copied.
func TestMigrateKeepsSparse(t *testing.T) {
	t.Parallel()
	for _, pair := range everySparsePair {
		for name, attempts := range map[string]int{"at once": 1, "after another attempt": 2} {
			t.Run(pair.from.name+"-"+pair.from.lane+"/"+pair.to.name+"-"+pair.to.lane+"/"+name, func(t *testing.T) {
				t.Parallel()
				migrateKeepsSparse(t, pair.from, pair.to, 64<<20, 2, attempts)
			})
		}
	}
}

// everySparsePair has each storage that takes space, as a source and as a destination.
var everySparsePair = []struct{ from, to setting }{
	{fileOnFile, fileOnFile}, {fileRPC, blockdev}, {blockdev, fileRPC}, {blockdevRPC, blockdev},
}

// migrateKeepsSparse migrates a disk of which clients have written, and zeroed, a part.
// The destination of another attempt does not read as zeroes any more: its last one
// sends the holes, too.
func migrateKeepsSparse(t *testing.T, from, to setting, size int64, seed uint64, attempts int) {
	t.Helper()
	disk := journal.NewDisk(size)
	old, young := newMovable(t, from, size), newMovable(t, to, size)
	old.fill(t, disk)
	source, destination := serve(t, old.arguments...), listen(t, young.arguments...)
	load := startLoad(t, disk, journal.Options{Servers: at(source, destination), Seed: seed})
	load.more(100)
	for attempt := range attempts {
		if attempt > 0 {
			source.breaks(0, "mirror stopped")
		}
		source.mirror(destination.addr, "--max-speed", "1M")
		source.copies(1 << 20)
		load.more(100)
	}
	if err := load.Pause(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	source.hurry()
	source.departs()
	destination.arrives()
	load.stop()
	checkFile(t, disk, young.path)
	was, is := allocated(t, old.image), allocated(t, young.image)
	if is > was+was/50 || is < was-was/50 {
		t.Errorf("the copy takes %d bytes of space, the original %d: %.1f %%", is, was, 100*float64(is)/float64(was))
	}
}
