// SPDX-License-Identifier: GPL-3.0-or-later

package compare

import (
	"os/exec"
	"runtime"
	"syscall"
)

// awake keeps every CPU busy with a loop of class SCHED_IDLE, which runs where nothing
// else wants to. A virtual machine's idle CPU goes back to its host, and to wake it costs
// whoever wakes it a trip there, and whoever is woken tens of microseconds: what several
// processes hand to each other pays that, and a machine of one's own does not have it.
// It is for all servers alike.
type awake []*exec.Cmd

func keepAwake() (a awake, err error) {
	for range runtime.NumCPU() {
		loop := exec.Command("chrt", "--idle", "0", "sh", "-c", "while :; do :; done")
		loop.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // the caller's thread is the main one
		if err := loop.Start(); err != nil {
			a.stop()
			return nil, err
		}
		a = append(a, loop)
	}
	return a, nil
}

func (a awake) stop() {
	for _, loop := range a {
		_ = loop.Process.Kill()
		_ = loop.Wait() // killed
	}
}
