// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// memory returns the memory of the server's processes in bytes: the sum of
// their proportional set sizes, in which a page that several share is counted
// once.
func (s *server) memory() (int64, error) {
	var sum int64
	for _, pid := range tree(s.command.Process.Pid) {
		pss, err := proportional(pid)
		if err != nil {
			return 0, err
		}
		sum += pss
	}
	return sum, nil
}

// tree lists a process and those below it.
func tree(pid int) []int {
	pids := []int{pid}
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		children, _ := os.ReadFile(list)
		for child := range strings.FieldsSeq(string(children)) {
			if n, err := strconv.Atoi(child); err == nil {
				pids = append(pids, tree(n)...)
			}
		}
	}
	return pids
}

func proportional(pid int) (int64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "Pss:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no Pss", pid)
}

// peak samples the memory until it is told to end, and returns the most it saw.
func (s *server) peak(end <-chan struct{}) (most int64, err error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		now, err := s.memory()
		if err != nil {
			return 0, err
		}
		most = max(most, now)
		select {
		case <-end:
			return most, nil
		case <-tick.C:
		}
	}
}

// peakDuring returns the most memory seen while work runs.
func (s *server) peakDuring(work func() error) (int64, error) {
	end := make(chan struct{})
	var most int64
	var peakErr error
	var sampler sync.WaitGroup
	sampler.Go(func() { most, peakErr = s.peak(end) })
	err := work()
	close(end)
	sampler.Wait()
	if err == nil {
		err = peakErr
	}
	return most, err
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
