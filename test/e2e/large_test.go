// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// The manual's read and write send a single request of up to 2^30 bytes. Neither
// the server nor its plugins nor the command may need memory for all of it.
func TestLargestRequestPassesThroughBoundedMemory(t *testing.T) {
	const largest = 1 << 30
	const limit = 200 << 20 // of each process; the race detector's share comes on top
	disk := sparseFile(t, largest+4096)
	end, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	mark := []byte("the very end")
	if _, err := end.WriteAt(mark, largest+4096-int64(len(mark))); err != nil {
		t.Fatal(err)
	}
	if err := end.Close(); err != nil {
		t.Fatal(err)
	}
	s := serve(t, "--file", disk)
	s.zeroMapReady()

	last := &counter{keep: len(mark)}
	read := exec.CommandContext(t.Context(), programs.flexnbd, s.command("read", 4096, largest)...)
	read.Stdout, read.Stderr = last, &s.log
	if err := read.Run(); err != nil {
		t.Fatalf("read: %v", err)
	}
	if last.n != largest || string(last.tail) != string(mark) {
		t.Errorf("read printed %d bytes that end in %q, want %d and %q", last.n, last.tail, largest, mark)
	}
	write := exec.CommandContext(t.Context(), programs.flexnbd, s.command("write", 0, largest)...)
	write.Stdin, write.Stderr = zeroes(largest), &s.log
	if err := write.Run(); err != nil {
		t.Fatalf("write: %v", err)
	}

	if os.Getenv("FLEXNBD_E2E_RACE") == "1" {
		return // nothing is known about the memory then
	}
	for _, pid := range append([]int{s.cmd.Process.Pid}, s.plugins...) {
		if peak := peakMemory(t, pid); peak > limit {
			t.Errorf("process %d has had %d MiB of memory at a time, want at most %d", pid, peak>>20, limit>>20)
		}
	}
	for _, command := range []*exec.Cmd{read, write} {
		if peak := rusageMemory(command); peak > limit {
			t.Errorf("flexnbd %s has had %d MiB of memory at a time, want at most %d", command.Args[1], peak>>20, limit>>20)
		}
	}
}

// counter counts bytes and keeps the last ones.
type counter struct {
	n    int64
	keep int
	tail []byte
}

// Write never fails.
func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	c.tail = append(c.tail, p[max(0, len(p)-c.keep):]...)
	c.tail = c.tail[max(0, len(c.tail)-c.keep):]
	return len(p), nil
}

// rusageMemory is the most memory that a command that has ended has had, in bytes, or
// that this process had when it started the command: Linux counts that in.
func rusageMemory(cmd *exec.Cmd) int64 {
	return cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
}
