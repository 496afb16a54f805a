// SPDX-License-Identifier: GPL-3.0-or-later

package blockdev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Identity names the open device by what stays with it, whatever node leads to
// it and whatever number it has after the next start of the machine. It is a key
// for records, of letters, digits and "-._:@%". Two devices do not share one, but
// for two paths to one disk, and for loop devices on two file systems that are
// copies of each other.
//
//	dm:LVM-...          a logical volume, or another device of the device mapper, by its UUID
//	wwid:naa.6001...    a disk, by the world-wide identifier that its maker or array gave it
//	loop:FS:INODE       a loop device, by the file with its bytes; @OFFSET behind it where it starts further in
//	...-partN           partition N of any of these
//
// A partition is named by its number, not by the UUID in its table, which older
// kernels do not tell.
//
// Any other device gives an error that wraps ENODATA and says to name it by
// hand. So does a loop device whose file cannot be looked at.
func Identity(device *os.File) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(device.Fd()), &st); err != nil {
		return "", fmt.Errorf("device %s: asking for its number: %w", device.Name(), err)
	}
	if err := explainKind(device.Name(), st.Mode); err != nil {
		return "", err
	}
	id, err := sysfs{
		root: "/sys",
		loop: func() (*unix.LoopInfo64, error) { return unix.IoctlLoopGetStatus64(int(device.Fd())) },
	}.identity(uint64(st.Rdev)) //nolint:unconvert // a uint32 on mips
	if err != nil {
		return "", &explained{
			fmt.Sprintf("device %s cannot be told from others by anything that stays with it (%v); name it with --disk-id NAME", device.Name(), err),
			unix.ENODATA,
		}
	}
	return id, nil
}

// sysfs is where the kernel describes its devices.
type sysfs struct {
	root string
	// loop asks the loop device, or the one that the partition is on, for its
	// file. The kernel's own answer holds wherever the file is mounted.
	loop func() (*unix.LoopInfo64, error)
}

var errNothing = errors.New("it has no WWID, no device mapper UUID and no file behind it")

func (s sysfs) identity(device uint64) (string, error) {
	dir := fmt.Sprintf("%s/dev/block/%d:%d", s.root, unix.Major(device), unix.Minor(device))
	if _, err := os.Stat(dir); err != nil {
		return "", err
	}
	partition, err := attribute(dir + "/partition")
	if err != nil {
		return "", err
	}
	if partition == "" {
		return s.disk(dir)
	}
	// The disk is above its partition: above where the symbolic link dir
	// leads to, so this is nothing for filepath.Join.
	disk, err := s.disk(dir + "/..")
	if err != nil {
		return "", err
	}
	return disk + "-part" + escape(partition), nil
}

// disk names what is no partition. The device mapper comes first: it passes on
// the WWID of what is below it, for several devices of its own perhaps.
func (s sysfs) disk(dir string) (string, error) {
	if exists(dir + "/dm") {
		uuid, err := attribute(dir + "/dm/uuid")
		if err != nil {
			return "", err
		}
		if uuid == "" {
			return "", errors.New("the device mapper was given no UUID for it")
		}
		return "dm:" + escape(uuid), nil
	}
	if exists(dir + "/loop") {
		return s.loopFile(dir)
	}
	for _, name := range []string{"/wwid", "/device/wwid"} { // of NVMe, of SCSI
		wwid, err := attribute(dir + name)
		if err != nil {
			return "", err
		}
		if meansSomething(wwid) {
			return "wwid:" + escape(wwid), nil
		}
	}
	return "", errNothing
}

// loopFile names a loop device by its file: the inode, and the file system by
// its ID. The number of the file system's device would do until it changes with
// the order in which disks are found; for file systems that have no other ID it
// has to.
func (s sysfs) loopFile(dir string) (string, error) {
	status, err := s.loop()
	if err != nil {
		return "", fmt.Errorf("asking for the file behind it: %w", err)
	}
	path, err := attribute(dir + "/loop/backing_file")
	if err != nil {
		return "", err
	}
	fileSystem, err := fileSystemOf(path, status)
	if err != nil {
		return "", fmt.Errorf("the file behind it, %s: %w", path, err)
	}
	id := fmt.Sprintf("loop:%s:%d", fileSystem, status.Inode)
	if status.Offset != 0 {
		id += fmt.Sprintf("@%d", status.Offset)
	}
	return id, nil
}

// fileSystemOf returns the ID of the file system with the file at path, which
// has to be the loop device's: another one may have taken its place.
func fileSystemOf(path string, status *unix.LoopInfo64) (string, error) {
	fd, err := open(path, unix.O_PATH)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd) //nolint:errcheck // it was only looked at
	var file unix.Stat_t
	var on unix.Statfs_t
	if err := errors.Join(unix.Fstat(fd, &file), unix.Fstatfs(fd, &on)); err != nil {
		return "", err
	}
	if uint64(file.Dev) != status.Device || file.Ino != status.Inode { //nolint:unconvert // uint32 on mips
		return "", errors.New("is another one by now")
	}
	if on.Fsid == (unix.Fsid{}) {
		return fmt.Sprintf("dev%d.%d", unix.Major(status.Device), unix.Minor(status.Device)), nil
	}
	return fmt.Sprintf("%08x%08x", uint32(on.Fsid.Val[0]), uint32(on.Fsid.Val[1])), nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// attribute reads a file of sysfs. One that is not there is as good as empty;
// so is one that a disk cannot answer, which the kernel shows as EINVAL or ENXIO.
func attribute(path string) (string, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENXIO) {
		return "", nil
	}
	return strings.TrimSpace(string(content)), err
}

// meansSomething tells a WWID from a blank that was never filled in.
func meansSomething(wwid string) bool {
	_, number, typed := strings.Cut(wwid, ".")
	if !typed {
		number = wwid
	}
	return strings.Trim(number, "0- ") != ""
}

// escape writes everything but letters, digits and "-._" as %XX, since some disks
// have spaces and slashes in their WWID.
func escape(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
