// SPDX-License-Identifier: GPL-3.0-or-later

package sandbox

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/elastic/go-seccomp-bpf/arch"

	"github.com/flexnbd/flexnbd/core/sandbox/sandboxtest"
)

const allowed, any = sandboxtest.Done, "(some error)"

var (
	notPermitted = unix.EPERM.Error()
	denied       = unix.EACCES.Error()
	tooMany      = unix.EMFILE.Error()
	noMemory     = unix.ENOMEM.Error()
)

// expected is an attempt and its error.
type expected struct {
	what, on, err string
}

// check has the attempts made and compares what became of them.
func check(t *testing.T, role string, p Policy, all []expected) Report {
	t.Helper()
	var attempts []attempt
	for _, e := range all {
		attempts = append(attempts, attempt{e.what, e.on})
	}
	o := run(t, role, p, attempts...)
	for i, e := range all {
		if got := o.Said[i]; got != e.err && (e.err != any || got == allowed) {
			t.Errorf("%v: %q, want %q", attempts[i], got, e.err)
		}
	}
	return o.Report
}

// scene is a folder with files, and a server of each kind.
type scene struct {
	dir, image, other, sub, socket, tcp string
}

func newScene(t *testing.T) scene {
	t.Helper()
	sandboxtest.Need(t, Found().Landlock, Found().Seccomp)
	dir := t.TempDir()
	s := scene{
		dir: dir, image: filepath.Join(dir, "a.img"), other: filepath.Join(dir, "b.img"),
		sub: filepath.Join(dir, "sub"), socket: filepath.Join(dir, "socket"),
	}
	for _, path := range []string{s.image, s.other} {
		if err := os.WriteFile(path, []byte("contents"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(s.sub, 0o700); err != nil {
		t.Fatal(err)
	}
	for network, address := range map[string]*string{"unix": &s.socket, "tcp": &s.tcp} {
		at := *address
		if network == "tcp" {
			at = "127.0.0.1:0"
		}
		l, err := net.Listen(network, at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		*address = l.Addr().String()
	}
	return s
}

// everybody is what no policy allows.
func everybody(s scene) []expected {
	me := strconv.Itoa(os.Getpid())
	return []expected{
		{"read", "/etc/shadow", denied},
		{"list", "/", denied},
		{"create", "/tmp/x", denied},
		{"chown", s.image, notPermitted},
		{"xattr", s.image, notPermitted},
		{"mknod", s.sub + "/null", notPermitted},
		{"symlink", s.sub + "/link", denied},
		{"exec", "/bin/true", notPermitted},
		{"start", "/bin/true", any},
		{"fork", "", notPermitted},
		{"clone3", "", unix.ENOSYS.Error()},
		{"socket", strconv.Itoa(unix.AF_PACKET), notPermitted},
		{"socket", strconv.Itoa(unix.AF_VSOCK), notPermitted},
		{"unix", s.socket, allowed},
		{"ptrace", me, notPermitted},
		{"limit", me, notPermitted},
		{"limitOwn", "", allowed},
		{"type", "", notPermitted},
		{"typeAnyway", "", notPermitted},
		{"pair", strconv.Itoa(unix.AF_TIPC), notPermitted},
		{"cloneUser", "", notPermitted},
		{"netlink", strconv.Itoa(unix.NETLINK_SOCK_DIAG), notPermitted},
		{"mount", s.sub, notPermitted},
		{"unshare", "", notPermitted},
		{"handle", "", notPermitted},
		{"uring", "", notPermitted},
		{"bpf", "", notPermitted},
		{"keyctl", "", notPermitted},
		{"dump", "", allowed},
		{"signalOwn", "", allowed},
		{"threads", "", allowed},
	}
}

func TestNothing(t *testing.T) {
	s := newScene(t)
	me := strconv.Itoa(os.Getpid())
	r := check(t, inside, Policy{}, append(everybody(s), []expected{
		{"read", s.image, denied},
		{"write", s.image, denied},
		{"remove", s.image, denied},
		{"truncate", s.image, denied},
		{"mkdir", s.sub + "/x", denied},
		{"chmod", s.image, notPermitted},
		{"touch", s.image, notPermitted},
		{"socket", strconv.Itoa(unix.AF_INET), notPermitted},
		{"dgram", strconv.Itoa(unix.AF_INET6), notPermitted},
		{"socket", strconv.Itoa(unix.AF_NETLINK), notPermitted},
		{"connect", s.tcp, notPermitted},
		{"listen", "127.0.0.1:0", notPermitted},
		{"bindUnix", s.sub + "/socket", denied},
		{"signal", me, notPermitted},
	}...))
	if r != Found() {
		t.Errorf("report %+v, want %+v", r, Found())
	}
}

func TestDisk(t *testing.T) {
	s := newScene(t)
	check(t, inside, Policy{Paths: []Path{{s.image, Disk}}}, append(everybody(s), []expected{
		{"read", s.image, allowed},
		{"write", s.image, allowed},
		{"truncate", s.image, denied},
		{"remove", s.image, denied},
		{"rename", s.image, denied},
		{"read", s.other, denied},
		{"list", s.dir, denied},
		{"create", s.dir + "/x", denied},
		{"connect", s.tcp, notPermitted},
	}...))
	check(t, inside, Policy{Paths: []Path{{s.image, DiskRead}}}, []expected{
		{"read", s.image, allowed},
		{"write", s.image, denied},
	})
}

func TestFolders(t *testing.T) {
	s := newScene(t)
	check(t, inside, Policy{Paths: []Path{{s.sub, Records}}}, append(everybody(s), []expected{
		{"create", s.sub + "/x", allowed},
		{"write", s.sub + "/x", allowed},
		{"truncate", s.sub + "/x", allowed},
		{"read", s.sub + "/x", allowed},
		{"moveAway", s.sub + "/x", any},
		{"rename", s.sub + "/x", allowed},
		{"list", s.sub, allowed},
		{"remove", s.sub + "/x.renamed", allowed},
		{"mkdir", s.sub + "/y", denied},
		{"bindUnix", s.sub + "/socket", denied},
		{"rmdir", s.sub, denied},
		{"read", s.image, denied},
	}...))
	check(t, inside, Policy{Paths: []Path{{s.sub, Sockets}}, Modes: true}, append(everybody(s), []expected{
		{"bindUnix", s.sub + "/socket", allowed}, // and removed
		{"create", s.sub + "/x", denied},
		{"chmod", s.other, notPermitted},
	}...))
	check(t, inside, Policy{Paths: []Path{{s.sub, Private}}}, append(everybody(s), []expected{
		{"bindUnix", s.sub + "/socket", allowed},
		{"create", s.sub + "/x", allowed},
		{"remove", s.sub + "/x", allowed},
		{"mkdir", s.sub + "/x", denied},
	}...))
	check(t, inside, Policy{Paths: []Path{{s.sub, Folders}}}, append(everybody(s), []expected{
		{"mkdir", s.sub + "/x", allowed},
		{"create", s.sub + "/x/y", denied},
		{"rmdir", s.sub + "/x", allowed},
		{"rmdir", s.sub, denied},
	}...))
	check(t, inside, Policy{Paths: []Path{{s.dir, Remove}}}, append(everybody(s), []expected{
		{"read", s.other, denied},
		{"rename", s.other, denied},
		{"remove", s.other, allowed},
	}...))
}

func TestInternet(t *testing.T) {
	s := newScene(t)
	check(t, inside, Policy{Internet: true, Paths: []Path{{"/etc/hosts", Read}, {"/does/not/exist", Read}}}, append(everybody(s), []expected{
		{"connect", s.tcp, allowed},
		{"listen", "127.0.0.1:0", allowed},
		{"dgram", strconv.Itoa(unix.AF_INET), allowed},
		{"read", "/etc/hosts", allowed},
		{"write", "/etc/hosts", denied},
		{"read", s.image, denied},
	}...))
}

func TestProgramsAndSignals(t *testing.T) {
	s := newScene(t)
	me := strconv.Itoa(os.Getpid())
	system := []Path{{"/dev/null", Disk}}
	for _, folder := range []string{"/bin", "/lib", "/lib64", "/usr"} {
		system = append(system, Path{folder, Execute})
	}
	check(t, inside, Policy{Programs: true, Paths: system}, []expected{
		{"start", "/bin/true", allowed},
		{"killChild", "", allowed},
		{"signal", me, notPermitted}, // by Landlock
	})
	abstract, err := net.Listen("unix", "@flexnbd-sandbox-"+me)
	if err != nil {
		t.Fatal(err)
	}
	defer abstract.Close()
	check(t, inside, Policy{Signals: true}, []expected{{"abstract", abstract.Addr().String(), notPermitted}, {"signal", me, allowed}})
	check(t, inside, Policy{Abstract: true}, []expected{{"abstract", abstract.Addr().String(), allowed}, {"signal", me, notPermitted}})
	check(t, inside, Policy{Programs: true, Signals: true, Paths: system}, []expected{
		{"start", "/bin/true", allowed},
		{"fork", "", allowed},
		{"signal", me, allowed},
		{"killChild", "", allowed},
		{"cloneUser", "", notPermitted},
		{"clone3", "", unix.ENOSYS.Error()},
		{"start", "/proc/self/exe", denied},
		{"read", s.image, denied},
		{"connect", s.tcp, notPermitted},
		{"ptrace", me, notPermitted},
	})
}

func TestLimits(t *testing.T) {
	newScene(t)
	check(t, inside, Policy{Descriptors: 100, Memory: 512 << 20}, []expected{
		{"descriptors", "100", tooMany},
		{"memory", strconv.Itoa(64 << 20), allowed},
		{"memory", strconv.Itoa(1 << 30), noMemory},
	})
	check(t, inside, Policy{}, []expected{
		{"descriptors", "100", allowed},
		{"memory", strconv.Itoa(1 << 30), allowed},
	})
}

func TestCapabilities(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root has capabilities to give up")
	}
	newScene(t)
	theirs := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(theirs, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(theirs, 4711, 4711); err != nil {
		t.Fatal(err)
	}
	readable := []Path{{theirs, Read}}
	check(t, inside, Policy{Paths: readable}, []expected{{"read", theirs, denied}, {"setuid", "", notPermitted}})
	check(t, inside, Policy{Paths: readable, Capabilities: []Capability{DACOverride}}, []expected{
		{"read", theirs, allowed},
		{"setuid", "", notPermitted},
		{"dropAll", "", allowed}, // once it needs no more
		{"read", theirs, denied},
	})
	check(t, inside, Policy{Paths: readable, Capabilities: []Capability{DACOverride, SetUID}}, []expected{{"read", theirs, allowed}, {"setuid", "", allowed}})
}

// Without Landlock the rest still holds, and the report says what is missing.
func TestKernelWithoutLandlock(t *testing.T) {
	s := newScene(t)
	r := check(t, oldKernel, Policy{Paths: []Path{{s.image, Disk}}, Descriptors: 100}, []expected{
		{"read", s.image, allowed},
		{"read", s.other, allowed}, // nothing else can hold it back
		{"chmod", s.other, notPermitted},
		{"exec", "/bin/true", notPermitted},
		{"connect", s.tcp, notPermitted},
		{"signal", strconv.Itoa(os.Getpid()), notPermitted},
		{"descriptors", "100", tooMany},
	})
	if r.Landlock != 0 || !r.Seccomp {
		t.Errorf("report %+v", r)
	}
}

// The 32-bit calls of a 64-bit kernel have other numbers, so none is let through.
func TestCallsOfAnotherMachine(t *testing.T) {
	machine, err := arch.GetInfo("")
	if err != nil {
		t.Fatal(err)
	}
	vm, err := bpf.NewVM(append(onlyOn(machine), bpf.RetConstant{Val: 1}))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		arch uint32
		want int
	}{{uint32(machine.ID), 1}, {uint32(arch.I386.ID), int(pretendMissing)}, {uint32(arch.ARM.ID), int(pretendMissing)}} {
		// The virtual machine reads packets, which are big-endian.
		call := []byte{0, 0, 0, 0, byte(c.arch >> 24), byte(c.arch >> 16), byte(c.arch >> 8), byte(c.arch)}
		if got, err := vm.Run(call); err != nil || got != c.want {
			t.Errorf("machine %#x: %#x, want %#x (%v)", c.arch, got, c.want, err)
		}
	}
}

// A name with a slip in it would forbid nothing: what the library does not know of this
// machine's calls stands here.
func TestCallsHaveTheirNames(t *testing.T) {
	machine, err := arch.GetInfo("x86_64")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Concat(forAdministrators, aroundTheChecks, ofOtherMemory, ofOwners, ofModes, ofPrograms, ofSignals, ofThreads) {
		if _, known := machine.SyscallNames[name]; !known {
			t.Errorf("x86_64 has no call %s", name)
		}
	}
}
