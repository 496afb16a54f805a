// SPDX-License-Identifier: GPL-3.0-or-later

// Package blockdev is the stock backend for block devices: disks, partitions,
// logical volumes, loop devices.
//
// A plugin's main hands [Plugin] to the SDK. To use the backend in process:
//
//	disk, err := blockdev.Open(ctx, "/dev/vg0/web1", false)
//
// The location is the path of a device node; symbolic links are followed. The
// device is served with the exact size it has. Package fdstore does the rest,
// and says how zeroing and discarding work. A regular file is refused: there is a
// backend of its own for those.
//
// # Exclusivity
//
// The device is opened with O_EXCL, whether it is to be written or only read. So
// it is refused while it is mounted, part of a volume group or an array, or
// served already, and nothing of the kind can begin while it is served. That holds
// whatever node it is named by, and between a disk and its partitions.
//
// The price is that two read-only servers cannot share a device, as they can
// share a file. Linux offers nothing in between: a reader without O_EXCL would
// not notice that the device is mounted elsewhere and changes under its clients,
// nor keep that from happening later. Clients of one read-only server share it.
//
// What does not ask for the device with O_EXCL, dd for one, is not kept out.
//
// # Identity
//
// [Identity] names a device by what stays with it when it turns up under another
// name after the next start of the machine.
package blockdev
