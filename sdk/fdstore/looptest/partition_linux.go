// SPDX-License-Identifier: Apache-2.0

package looptest

import (
	"fmt"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// blkpg is BLKPG, which package unix does not have. The requests of this family
// are numbered alike on every architecture.
const blkpg = unix.BLKROGET + 105 - 94

// Partition makes a partition of length bytes at start, both multiples of 512,
// and returns the path of its node. Nothing is written to the device. number
// counts from 1.
func (d *Device) Partition(t testing.TB, number int32, start, length int64) string {
	t.Helper()
	p := unix.BlkpgPartition{Pno: number, Start: start, Length: length}
	if err := d.changePartition(unix.BLKPG_ADD_PARTITION, &p); err != nil {
		t.Fatalf("partition %d of %s: %v", number, d.Path, err)
	}
	t.Cleanup(func() {
		if err := d.changePartition(unix.BLKPG_DEL_PARTITION, &p); err != nil {
			t.Errorf("partition %d of %s cannot be removed: %v", number, d.Path, err)
		}
	})
	return fmt.Sprintf("%sp%d", d.Path, number)
}

func (d *Device) changePartition(op int32, p *unix.BlkpgPartition) error {
	arg := unix.BlkpgIoctlArg{Op: op, Datalen: int32(unsafe.Sizeof(*p)), Data: (*byte)(unsafe.Pointer(p))}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, d.holder.Fd(), blkpg, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		return errno
	}
	return nil
}
