// SPDX-License-Identifier: GPL-3.0-or-later

// Package machine says where and when something was measured, for the reports.
package machine

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Machine is where and when the results were made, and of which source.
type Machine struct {
	Date   time.Time `json:"date"`
	Commit string    `json:"commit"`
	Kernel string    `json:"kernel"`
	CPU    string    `json:"cpu"`
	CPUs   int       `json:"cpus"`
	Memory uint64    `json:"memory_bytes"`
	Go     string    `json:"go"`
}

// This looks around. What it does not find stays empty.
func This() Machine {
	m := Machine{Date: time.Now().UTC().Truncate(time.Second), CPUs: runtime.NumCPU(), Go: runtime.Version()}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.Kernel = unix.ByteSliceToString(name.Sysname[:]) + " " + unix.ByteSliceToString(name.Release[:])
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.Memory = info.Totalram * uint64(info.Unit)
	}
	cpus, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(cpus)) {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "model name" {
			m.CPU = strings.TrimSpace(value)
			break
		}
	}
	commit, _ := exec.Command("git", "describe", "--always", "--dirty", "--abbrev=12").Output()
	m.Commit = strings.TrimSpace(string(commit))
	return m
}
