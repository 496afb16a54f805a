// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/wire"
	"github.com/flexnbd/flexnbd/sdk/wire/wiretest"
)

// The end-to-end tests rely on what this shows.
func TestLineInTheFIFOTakesTheDiskBack(t *testing.T) {
	dir := t.TempDir()
	fifo, trace := filepath.Join(dir, "fifo"), filepath.Join(dir, "trace")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	disk := wire.Disk{
		Location: "1048576",
		Options:  map[string]string{"revoke": fifo, "trace": trace},
		Lanes:    []string{wire.LaneFile},
	}
	line := wiretest.New(t, wire.Served{Open: open})
	s, err := line.Client.OpenDisk(t.Context(), disk)
	if err != nil {
		t.Fatal(err)
	}
	lent, _ := s.(wire.LentTaker).TakeLent()
	disk.Lease = s.(wire.LeaseTaker).TakeLease()
	if lent == nil || disk.Lease == nil {
		t.Fatalf("loan %v, lease %v", lent, disk.Lease)
	}
	if _, err := unix.Pwrite(lent.FD(), []byte("lent"), 9); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(fifo, []byte("\n"), 0); err != nil {
		t.Fatal(err)
	}
	if err := lent.AwaitRevocation(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := lent.GiveBack(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if lines, err := os.ReadFile(trace); err != nil || string(lines) != "revoke\nrevoked\nclose\n" {
		t.Errorf("the trace says %q, %v", lines, err)
	}

	// The next process goes on with the lease, and lends again.
	next, err := line.Client.OpenDisk(t.Context(), disk)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if err := next.ReadAt(context.Background(), got, 9); err != nil || string(got) != "lent" {
		t.Errorf("read %q, %v", got, err)
	}
	if err := next.Close(); err != nil {
		t.Error(err)
	}
	_ = disk.Lease.Close()
}
