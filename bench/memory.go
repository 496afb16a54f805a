// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"fmt"
	"sync"
	"time"

	"github.com/flexnbd/flexnbd/bench/process"
)

// memory returns the memory of all the server's processes in bytes.
func (s *server) memory() (int64, error) { return process.Memory(s.command.Process.Pid) }

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
