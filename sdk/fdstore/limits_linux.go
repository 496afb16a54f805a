// SPDX-License-Identifier: Apache-2.0

package fdstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// limits is the most that a device takes in one request of a kind, in bytes. 0
// says that it does not know the request.
type limits struct {
	discard int64
	zero    int64 // to make zeroes without being sent any
}

// readLimits reads them from the sysfs that is mounted at root. There is no
// other way to ask whether a device makes zeroes by itself than to try, and an
// attempt that fails has changed what is read already: see block.zero.
func readLimits(root string, device uint64) (l limits, err error) {
	dir := fmt.Sprintf("%s/dev/block/%d:%d", root, unix.Major(device), unix.Minor(device))
	switch _, err := os.Stat(dir + "/partition"); {
	case err == nil:
		// A partition shares its disk's queue. The directory is a symbolic
		// link, so what is above it is for the kernel to say, not for
		// filepath.Join.
		dir += "/.."
	case !errors.Is(err, fs.ErrNotExist):
		return l, err
	}
	if l.discard, err = readNumber(dir + "/queue/discard_max_bytes"); err != nil {
		return limits{}, err
	}
	if l.zero, err = readNumber(dir + "/queue/write_zeroes_max_bytes"); err != nil {
		return limits{}, err
	}
	return l, nil
}

// readNumber reads a number of bytes. One that is too large for an int64 is as
// good as the largest.
func readNumber(path string) (int64, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(content)), 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}
