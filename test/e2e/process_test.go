// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// processGone says whether there is no such process any more, or a zombie that
// only waits for its parent to look at it.
func processGone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "Z")
}

// peakMemory is the most memory that a process has had at a time, in bytes.
func peakMemory(t *testing.T, pid int) int64 {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatalf("process %d has no VmHWM", pid)
	return 0
}

// children returns the processes that pid has started, whichever of its threads
// did it.
func children(t *testing.T, pid int) []int {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("no list of the children of process %d (%v)", pid, err)
	}
	var pids []int
	for _, file := range files {
		text, _ := os.ReadFile(file) // a thread may have ended
		for word := range strings.FieldsSeq(string(text)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			pids = append(pids, child)
		}
	}
	return pids
}

// descriptors are the files that a process has open, in order.
func descriptors(t *testing.T, pid int) []string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	open, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, fd := range open {
		name, err := os.Readlink(filepath.Join(dir, fd.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// leaksNone waits until the server has no more files open than before, when there may
// have been one for a moment, too.
func (s *server) leaksNone(before []string) {
	s.t.Helper()
	var now []string
	if !soon(func() bool {
		now = descriptors(s.t, s.cmd.Process.Pid)
		return len(now) <= len(before)
	}) {
		s.t.Errorf("the server's open files were\n%q\nand are\n%q", before, now)
	}
}
