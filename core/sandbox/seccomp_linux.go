// SPDX-License-Identifier: GPL-3.0-or-later

package sandbox

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"unsafe"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Calls that no part of flexnbd makes: a filter that names what is forbidden, and not
// what is allowed, does not have to be mended with each version of Go.
var (
	forAdministrators = []string{
		"acct", "add_key", "adjtimex", "bpf", "chroot", "clock_adjtime", "clock_settime", "delete_module", "fanotify_init",
		"finit_module", "fsconfig", "fsmount", "fsopen", "fspick", "init_module", "ioperm", "iopl", "kexec_file_load",
		"kexec_load", "keyctl", "lookup_dcookie", "mknod", "mknodat", "mount", "mount_setattr", "move_mount", "nfsservctl",
		"open_by_handle_at", "open_tree", "open_tree_attr", "perf_event_open", "pivot_root", "quotactl", "quotactl_fd", "reboot",
		"request_key", "setdomainname", "sethostname", "setns", "settimeofday", "swapoff", "swapon", "syslog", "umount2",
		"unshare", "userfaultfd", "vhangup",
	}
	// What the kernel checks elsewhere, if at all, for calls that come in by this way.
	aroundTheChecks = []string{"io_uring_enter", "io_uring_register", "io_uring_setup"}
	ofOtherMemory   = []string{"kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace"}
	ofOwners        = []string{
		"chown", "fchown", "fchownat", "fremovexattr", "fsetxattr", "lchown", "lremovexattr", "lsetxattr",
		"removexattr", "removexattrat", "setxattr", "setxattrat",
	}
	// By path or by something like it, so that no rule for opening holds them back.
	ofModes    = []string{"chmod", "fchmodat", "fchmodat2", "futimesat", "utime", "utimensat", "utimes"}
	ofPrograms = []string{"execve", "execveat", "fork", "vfork"}
	// See ofThreads, too.
	ofSignals  = []string{"pidfd_send_signal", "rt_sigqueueinfo", "rt_tgsigqueueinfo"}
	ownSignals = []string{"kill", "tgkill"} // their first argument is a process
)

const refuse = seccomp.ActionErrno // with EPERM

// pretendMissing makes the C library and others fall back on an older call.
const pretendMissing = seccomp.ActionErrno | seccomp.Action(unix.ENOSYS)

func hasSeccomp() bool {
	_, err := arch.GetInfo("")
	return err == nil && seccomp.Supported()
}

// restrictCalls filters the system calls of all threads.
func restrictCalls(p Policy) error {
	if !hasSeccomp() {
		return nil
	}
	machine, err := arch.GetInfo("")
	if err != nil {
		return err
	}
	filter := seccomp.Policy{DefaultAction: seccomp.ActionAllow, Syscalls: groups(p, machine)}
	instructions, err := filter.Assemble()
	if err != nil {
		return err
	}
	program, err := bpf.Assemble(append(onlyOn(machine), instructions...))
	if err != nil {
		return err
	}
	return load(program)
}

// groups are what the policy does not allow, as far as the machine has such calls.
func groups(p Policy, machine *arch.Info) []seccomp.SyscallGroup {
	names := slices.Concat(forAdministrators, aroundTheChecks, ofOtherMemory, ofOwners, ofModes)
	if !p.Modes {
		names = append(names, "fchmod")
	}
	self := uint64(os.Getpid())
	conditional := []seccomp.NameWithConditions{
		when("socket", otherFamilies(p)...),
		when("socketpair", otherFamilies(p)...),
		// A limit of nothing is as good as a signal.
		when("prlimit64", is(0, seccomp.NotEqual, 0), is(0, seccomp.NotEqual, self)),
		// What a terminal takes for typed. The upper half of the argument is none of the
		// kernel's business.
		when("ioctl", is(1, seccomp.Equal, unix.TIOCSTI)),
		when("ioctl", is(1, seccomp.Equal, unix.TIOCLINUX)),
		when("ioctl", is(1, seccomp.GreaterThan, math.MaxUint32)),
	}
	if p.Internet {
		conditional = append(conditional, when("socket", is(0, seccomp.Equal, unix.AF_NETLINK), is(2, seccomp.NotEqual, unix.NETLINK_ROUTE)))
	}
	if p.Programs {
		conditional = append(conditional, when("clone", is(0, seccomp.BitsSet, namespaces)))
	} else {
		names = append(names, ofPrograms...)
		conditional = append(conditional, when("clone", is(0, seccomp.BitsNotSet, unix.CLONE_THREAD)))
	}
	// The children of a process that may have some are not known here; Landlock knows them.
	if !p.Signals && !p.Programs {
		names = slices.Concat(names, ofSignals, ofThreads)
		for _, call := range ownSignals {
			conditional = append(conditional, when(call, is(0, seccomp.NotEqual, self)))
		}
	}
	return []seccomp.SyscallGroup{
		{Action: refuse, Names: there(names, machine), NamesWithCondtions: conditional},
		// Its flags are in memory, where no filter sees them.
		{Action: pretendMissing, Names: []string{"clone3"}},
	}
}

// namespaces are the flags of clone(2) that unshare(2) has as well.
const namespaces = unix.CLONE_NEWCGROUP | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWNS |
	unix.CLONE_NEWPID | unix.CLONE_NEWUSER | unix.CLONE_NEWUTS

// otherFamilies are those of sockets that the policy does not allow.
func otherFamilies(p Policy) []seccomp.Condition {
	families := []uint64{unix.AF_UNIX}
	if p.Internet {
		// Netlink is how interfaces are looked up.
		families = append(families, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK)
	}
	var none []seccomp.Condition
	for _, f := range families {
		none = append(none, is(0, seccomp.NotEqual, f))
	}
	return none
}

func when(call string, all ...seccomp.Condition) seccomp.NameWithConditions {
	return seccomp.NameWithConditions{Name: call, Conditions: all}
}

func is(argument uint32, operation seccomp.Operation, value uint64) seccomp.Condition {
	return seccomp.Condition{Argument: argument, Operation: operation, Value: value}
}

// there are the calls that the machine has: older ones are missing from newer kinds.
func there(names []string, machine *arch.Info) []string {
	var some []string
	for _, name := range names {
		if _, ok := machine.SyscallNames[name]; ok {
			some = append(some, name)
		}
	}
	return some
}

// onlyOn refuses the calls of another machine that the kernel emulates, 32-bit ones
// above all. Their numbers mean something else, and the library lets them pass.
func onlyOn(machine *arch.Info) []bpf.Instruction {
	const offsetOfArch = 4
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: offsetOfArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(machine.ID), SkipTrue: 1},
		bpf.RetConstant{Val: uint32(pretendMissing)},
	}
}

// load makes the program the filter of all threads. The library's own way to do so
// takes no program but its own.
func load(program []bpf.RawInstruction) error {
	filter := make([]unix.SockFilter, len(program))
	for i, in := range program {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	// The filter of this thread becomes that of the others, with the promise that makes
	// it a filter that anybody may load: no program has more rights than who starts it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("promise no new privileges: %w", err)
	}
	fprog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&fprog)))
	switch {
	case errno != 0:
		return fmt.Errorf("load the filter: %w", errno)
	case thread != 0:
		return fmt.Errorf("load the filter: thread %d has another one already", thread)
	}
	return nil
}
