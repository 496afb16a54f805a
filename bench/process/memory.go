// SPDX-License-Identifier: GPL-3.0-or-later

package process

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Memory returns the memory of a process and those below it in bytes: the sum of
// their proportional set sizes, in which a page that several share is counted once.
func Memory(pid int) (int64, error) {
	var sum int64
	for _, p := range Tree(pid) {
		pss, err := proportional(p)
		switch {
		case p != pid && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)): // ended since
		case err != nil:
			return 0, fmt.Errorf("memory of process %d: %w", p, err)
		default:
			sum += pss
		}
	}
	return sum, nil
}

func proportional(pid int) (int64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "Pss:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	if err := lines.Err(); err != nil {
		return 0, err
	}
	// A zombie's file is there and empty, or says ESRCH.
	return 0, syscall.ESRCH
}
