// SPDX-License-Identifier: GPL-3.0-or-later

package crash

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func copyingSourceKilled(t *testing.T) {
	each(t, []string{"source-connected", "source-hello-answered", "source-copying"}, func(t *testing.T, point string) {
		s := begin(t, faults{kills(point)}, nil)
		s.mayNotice = true
		s.try()
		s.a.dies()
		s.nobody()
		s.plain()
		s.goesOn()
	})
}

func copyingDestinationKilled(t *testing.T) {
	t.Run("at its hello", func(t *testing.T) {
		t.Parallel()
		s := begin(t, nil, faults{kills("destination-hello")})
		s.refused("Mirror ", order{})
		s.b.dies()
		s.unnoticed()
		s.plain()
		s.b.restart()
		s.migrate(order{})
		s.departs()
	})
	each(t, []string{"destination-first-data", "destination-withdrawn"}, func(t *testing.T, point string) {
		s := begin(t, nil, faults{kills(point)})
		s.migrate(order{})
		s.b.dies()
		s.attemptFails("")
		s.plain()
		s.b.restart()
		s.departs()
	})
	t.Run("mid-copy", func(t *testing.T) {
		t.Parallel()
		s := begin(t, nil, nil)
		s.migrate(order{speed: slow})
		s.copies()
		s.b.kill()
		s.attemptFails("")
		s.plain()
		s.b.restart()
		s.unlimited()
		s.departs()
	})
}

func copyingDestinationStopped(t *testing.T) {
	s := begin(t, nil, nil)
	s.migrate(order{speed: slow})
	s.copies()
	s.b.suspend()
	s.attemptFails("") // after 10 seconds without a reply
	s.b.resume()
	s.unlimited()
	s.departs()
}

func copyingConnectionCut(t *testing.T) {
	s := begin(t, nil, nil)
	p := newProxy(t, s.address(5), s.b.addr)
	s.migrate(order{to: p.addr, speed: slow})
	s.copies()
	p.cutAll()
	s.attemptFails("")
	s.unlimited()
	s.departs()
}

func copyingDestinationWriteFails(t *testing.T) {
	t.Run("I/O error", func(t *testing.T) {
		t.Parallel()
		s := begin(t, nil, faults{fails("destination-first-data", "EIO")})
		s.migrate(order{})
		s.attemptFails("")
		s.departs()
	})
	t.Run("no space", func(t *testing.T) {
		t.Parallel()
		if os.Geteuid() != 0 {
			lacks(t, "only root can mount a small file system")
		}
		s := newScenario(t, setup{})
		small := filepath.Join(s.dir, "small")
		if err := os.Mkdir(small, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=1m"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(small, unix.MNT_DETACH) })
		s.b.image = filepath.Join(small, "image")
		makeImage(t, s.b.image, s.disk.Size())
		s.start(nil, nil)
		s.migrate(order{})
		s.attemptFails("space")
		s.plain()
		if err := unix.Mount("tmpfs", small, "tmpfs", unix.MS_REMOUNT, "size=16m"); err != nil {
			t.Fatal(err)
		}
		s.departs()
	})
}

// The source writes records to see whether it can when it starts and when a migration
// does; the third is .MIGRATED.next.
func copyingNextRecordFails(t *testing.T) {
	s := begin(t, faults{failsLater("owner-written", "ENOSPC", 2)}, nil)
	s.migrate(order{})
	s.attemptFails("no space left")
	s.departs()
}

func nextWrittenSourceKilled(t *testing.T) {
	s := begin(t, faults{kills("source-next-written")}, nil)
	s.mayNotice = true
	s.migrate(order{})
	s.a.dies()
	s.plain()
	if s.a.records().Next == nil {
		t.Error("there is no .MIGRATED.next")
	}
	s.goesOn()
}
