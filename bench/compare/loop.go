// SPDX-License-Identifier: GPL-3.0-or-later

package compare

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// attachLoop makes a loop device over the file. The kernel detaches it when nobody
// has it open any more, even if this process is killed.
func attachLoop(f *os.File) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("make a loop device: %w", err)
	}
	defer func() { _ = control.Close() }()
	const attempts = 20 // somebody else may be quicker
	for range attempts {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("make a loop device: %w", err)
		}
		device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return nil, fmt.Errorf("make a loop device: %w", err)
		}
		config := unix.LoopConfig{
			Fd:   uint32(f.Fd()),
			Size: 4 * kib, // of its blocks
			Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR},
		}
		err = unix.IoctlLoopConfigure(int(device.Fd()), &config)
		if err == nil {
			return device, nil
		}
		_ = device.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("attach %s to %s: %w", f.Name(), device.Name(), err)
		}
	}
	return nil, errors.New("make a loop device: all that seemed free were taken")
}
