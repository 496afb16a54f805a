// SPDX-License-Identifier: GPL-3.0-or-later

package process

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// CPUTime returns the time for which CPUs have run a process and those below it, in
// user space and in the kernel, also that of threads that have ended. It reads each
// process's CPU clock, which counts nanoseconds; /proc counts ticks of 10 ms. What
// processes took that have ended is not in it.
//
// What the kernel does on the process's behalf in threads of its own, and in
// interrupts that happen elsewhere, is not counted. On loopback nearly all of the
// network's work happens in the sender's system call, the receiving half included.
func CPUTime(pid int) (sum time.Duration, err error) {
	for _, p := range Tree(pid) {
		t, err := clock(p)
		switch {
		case errors.Is(err, unix.EINVAL) && p != pid: // ended since
		case err != nil:
			return 0, fmt.Errorf("CPU clock of process %d: %w", p, err)
		default:
			sum += t
		}
	}
	return sum, nil
}

// clock reads the clock that clock_getcpuclockid(3) would name: the complement of
// the process id, and CPUCLOCK_SCHED in the three lowest bits.
func clock(pid int) (time.Duration, error) {
	const scheduled = 2
	var t unix.Timespec
	err := unix.ClockGettime(int32(^pid<<3|scheduled), &t)
	return time.Duration(t.Nano()), err
}
