// SPDX-License-Identifier: GPL-3.0-or-later

package sandboxtest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Try makes an attempt, a word and what it is about, and returns what came of it: "done",
// or the error, of a system call its errno's text alone.
func Try(what, on string) string {
	do, ok := attempts[what]
	if !ok {
		return "no attempt is called " + what
	}
	return Outcome(do(on))
}

// Outcome is what came of an attempt with this error.
func Outcome(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return Done
	case errors.As(err, &errno):
		return errno.Error()
	}
	return err.Error()
}

// Done is what came of an attempt that nobody has held back.
const Done = "done"

// attempts are what a process may want to do.
var attempts = map[string]func(on string) error{
	"nothing": func(string) error { return nil },

	"read":     func(path string) error { _, err := os.ReadFile(path); return err },
	"write":    func(path string) error { return opening(path, os.O_WRONLY) },
	"create":   func(path string) error { return opening(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL) },
	"truncate": func(path string) error { return os.Truncate(path, 1) },
	"remove":   os.Remove,
	"list":     func(path string) error { _, err := os.ReadDir(path); return err },
	"mkdir":    func(path string) error { return os.Mkdir(path, 0o700) },
	"rmdir":    func(path string) error { return syscall.Rmdir(path) },
	"rename":   func(path string) error { return os.Rename(path, path+".renamed") },
	"moveAway": func(path string) error { return os.Rename(path, filepath.Join(os.TempDir(), "moved-away")) },
	"linkTo":   func(path string) error { return os.Link(path, path+".link") },
	"symlink":  func(path string) error { return os.Symlink("/etc/passwd", path) },
	"mknod":    func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) },
	"chmod":    func(path string) error { return os.Chmod(path, 0o777) },
	"chown":    func(path string) error { return os.Chown(path, 1, 1) },
	"touch":    func(path string) error { return unix.UtimesNanoAt(unix.AT_FDCWD, path, make([]unix.Timespec, 2), 0) },
	"xattr":    func(path string) error { return unix.Setxattr(path, "user.x", []byte("y"), 0) },
	"handle": func(string) error {
		_, err := unix.OpenByHandleAt(unix.AT_FDCWD, unix.NewFileHandle(1, make([]byte, 8)), 0)
		return err
	},

	"exec":   func(path string) error { return syscall.Exec(path, []string{path}, nil) },
	"start":  func(path string) error { return exec.Command(path).Run() },
	"clone3": func(string) error { return call(unix.SYS_CLONE3, 0, 0) },
	"cloneUser": func(string) error {
		pid, _, errno := syscall.RawSyscall(unix.SYS_CLONE, uintptr(unix.SIGCHLD)|unix.CLONE_NEWUSER, 0, 0)
		if errno == 0 && pid == 0 {
			_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
		return noError(errno)
	},
	"killChild": killChild,
	"fork": func(string) error {
		pid, _, errno := syscall.RawSyscall(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0)
		if errno == 0 && pid == 0 {
			_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
		return noError(errno)
	},
	"threads": func(string) error { return manyThreads() },

	"socket":  func(family string) error { return socket(family, unix.SOCK_STREAM) },
	"dgram":   func(family string) error { return socket(family, unix.SOCK_DGRAM) },
	"connect": func(address string) error { return closing(net.Dial("tcp", address)) },
	"listen":  func(address string) error { return closing(net.Listen("tcp", address)) },
	"pair":    func(family string) error { _, err := unix.Socketpair(number(family), unix.SOCK_STREAM, 0); return err },
	"netlink": func(protocol string) error {
		_, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, number(protocol))
		return err
	},
	"abstract": func(name string) error { return closing(net.Dial("unix", name)) },
	"unix":     func(path string) error { return closing(net.Dial("unix", path)) },
	"bindUnix": func(path string) error { return closing(net.Listen("unix", path)) },

	"signal":    func(pid string) error { return unix.Kill(number(pid), 0) },
	"signalOwn": func(string) error { return unix.Kill(os.Getpid(), 0) },
	"limit": func(pid string) error {
		return unix.Prlimit(number(pid), unix.RLIMIT_NOFILE, nil, &unix.Rlimit{})
	},
	"limitOwn":   func(string) error { return unix.Prlimit(os.Getpid(), unix.RLIMIT_NOFILE, nil, &unix.Rlimit{}) },
	"type":       func(string) error { return ioctl(unix.TIOCSTI) },
	"typeAnyway": func(string) error { return ioctl(unix.TIOCSTI | 1<<40) },
	"ptrace":     func(pid string) error { return unix.PtraceSeize(number(pid)) },
	"memoryOf":   func(pid string) error { return opening("/proc/"+pid+"/mem", os.O_RDWR) },

	"mount":   func(path string) error { return unix.Mount("none", path, "tmpfs", 0, "") },
	"unshare": func(string) error { return unix.Unshare(unix.CLONE_NEWUSER) },
	"uring":   func(string) error { return call(unix.SYS_IO_URING_SETUP, 1, 0) },
	"bpf":     func(string) error { return call(unix.SYS_BPF, 0, 0) },
	"keyctl": func(string) error {
		_, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
		return err
	},
	"setuid": func(string) error { return syscall.Setresuid(-1, 4711, -1) },

	"descriptors": manyDescriptors,
	"memory":      muchMemory,
	"heap":        growTo,
	"dump":        func(string) error { return limitIs(unix.RLIMIT_CORE, 0) },
}

// killChild starts a program that does not end by itself, and ends it.
func killChild(string) error {
	cmd := exec.Command("/bin/sleep", "1000")
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := cmd.Process.Kill(); err != nil {
		return err
	}
	if err := cmd.Wait(); err == nil {
		return errors.New("it has ended by itself")
	}
	return nil
}

// ioctl makes a call that no descriptor takes.
func ioctl(request uintptr) error {
	_, _, errno := syscall.Syscall(unix.SYS_IOCTL, 1<<20, request, 0)
	return noError(errno)
}

func opening(path string, how int) error {
	f, err := os.OpenFile(path, how, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func closing[C interface{ Close() error }](c C, err error) error {
	if err != nil {
		return err
	}
	return c.Close()
}

func call(number, a, b uintptr) error {
	_, _, errno := syscall.Syscall(number, a, b, 0)
	return noError(errno)
}

func noError(errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

func socket(family string, kind int) error {
	// The upper half of the argument is none of the kernel's business.
	fd, _, errno := syscall.Syscall(unix.SYS_SOCKET, uintptr(uint64(number(family))|1<<40), uintptr(kind), 0)
	if errno != 0 {
		fd, _, errno = syscall.Syscall(unix.SYS_SOCKET, uintptr(number(family)), uintptr(kind), 0)
	}
	if errno == 0 {
		return unix.Close(int(fd))
	}
	return errno
}

// manyDescriptors opens as many descriptors as it can, up to twice the number.
func manyDescriptors(most string) error {
	var fds []int
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}()
	for range 2 * number(most) {
		fd, err := unix.Dup(0)
		if err != nil {
			return err
		}
		fds = append(fds, fd)
	}
	return nil
}

// muchMemory asks the kernel for a number of bytes, all of which it writes to.
func muchMemory(bytes string) error {
	p, err := unix.Mmap(-1, 0, number(bytes), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	for i := 0; i < len(p); i += 4096 {
		*(*byte)(unsafe.Pointer(&p[i])) = 1
	}
	return unix.Munmap(p)
}

// growTo takes a number of bytes from Go, which ends a program that can't have them.
func growTo(bytes string) error {
	var all [][]byte
	for size := number(bytes); size > 0; size -= 1 << 20 {
		piece := make([]byte, 1<<20)
		for i := 0; i < len(piece); i += 4096 {
			piece[i] = 1
		}
		all = append(all, piece)
	}
	runtime.KeepAlive(all)
	return nil
}

func limitIs(resource int, want uint64) error {
	var now unix.Rlimit
	if err := unix.Getrlimit(resource, &now); err != nil {
		return err
	}
	if now.Cur != want || now.Max != want {
		return fmt.Errorf("the limit is %d of %d", now.Cur, now.Max)
	}
	return nil
}

// manyThreads makes sure that Go can still make threads.
func manyThreads() error {
	release, there := make(chan bool), make(chan bool)
	const threads = 20
	for range threads {
		go func() {
			var ts unix.Timespec
			_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
			there <- true
			<-release
		}()
	}
	for range threads {
		<-there
	}
	close(release)
	return nil
}
