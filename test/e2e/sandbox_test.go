// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/sandbox"
	"github.com/flexnbd/flexnbd/sdk/fdstore/looptest"
)

// credentials are what the kernel says of a process.
func credentials(t *testing.T, pid int) map[string]string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		values[key] = strings.Join(strings.Fields(value), " ")
	}
	return values
}

// processes are those of a server, by what status calls them.
func (s *server) processes() map[string]int {
	s.t.Helper()
	status := s.status()
	all := map[string]int{}
	for _, name := range []string{"pid", "launcher_pid", "backend_pid", "transport_pid"} {
		all[name] = number(s.t, status[name])
	}
	return all
}

// wantConfined checks which processes of a server are.
func (s *server) wantConfined(want map[string]bool) {
	s.t.Helper()
	for name, pid := range s.processes() {
		c := credentials(s.t, pid)
		if got := c["NoNewPrivs"] == "1" && c["Seccomp"] == "2"; got != want[name] {
			s.t.Errorf("%s: NoNewPrivs %s, Seccomp %s", name, c["NoNewPrivs"], c["Seccomp"])
		}
	}
}

func TestEverythingButTheLauncherIsConfined(t *testing.T) {
	t.Parallel()
	s := serve(t, "--file", sparseFile(t, 1<<20), "--verbose")
	all := map[string]bool{"pid": true, "backend_pid": true, "transport_pid": true}
	s.wantConfined(all)
	found := sandbox.Found()
	if want := fmt.Sprintf("landlock-%d,seccomp", found.Landlock); s.status()["sandbox"] != want {
		t.Errorf("sandbox=%s, want %s", s.status()["sandbox"], want)
	}
	if want := fmt.Sprintf("confined landlock_abi=%d seccomp=true backend=yes transport=yes", found.Landlock); !strings.Contains(s.log.String(), want) {
		t.Errorf("the log does not say %q:\n%s", want, s.log.String())
	}
	if c := credentials(t, s.processes()["backend_pid"]); c["CapEff"] != "0000000000000000" || c["CapPrm"] != "0000000000000000" {
		t.Errorf("the backend has capabilities: %v, %v", c["CapEff"], c["CapPrm"])
	}
	for _, plugin := range []string{"backend", "transport"} { // and their successors
		pid := s.processes()[plugin+"_pid"]
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the "+plugin+" is replaced", func() bool {
			status := s.state()
			return status[plugin+"_pid"] != fmt.Sprint(pid) && status["backend_state"] == "serving"
		})
	}
	s.wantConfined(all)
	s.write(t, fastBytes(1, 4096), 0)
	if got := s.read(t, 0, 4096); string(got) != string(fastBytes(1, 4096)) {
		t.Error("what was written is not read")
	}
}

func TestNoSandbox(t *testing.T) {
	t.Parallel()
	s := serve(t, "--file", sparseFile(t, 1<<20), "--no-sandbox")
	s.wantConfined(map[string]bool{})
	if s.status()["sandbox"] != "off" {
		t.Errorf("sandbox=%s", s.status()["sandbox"])
	}
	if !strings.Contains(s.log.String(), "not confined, as --no-sandbox says") {
		t.Errorf("the log does not say so:\n%s", s.log.String())
	}
}

// A plugin that does not say what it needs is not confined, and the log tells.
func TestPluginOfOthersIsNotConfined(t *testing.T) {
	t.Parallel()
	s := serve(t, "--backend", programs.memory, "--file", "64K", "--verbose")
	s.wantConfined(map[string]bool{"pid": true, "transport_pid": true})
	if !strings.Contains(s.log.String(), "backend=no transport=yes") {
		t.Errorf("the log does not say so:\n%s", s.log.String())
	}
}

// On a kernel without Landlock everything works, migrations and restarts included, and
// the log says what is missing.
func TestKernelWithoutLandlock(t *testing.T) {
	t.Parallel()
	old := surroundings{oldKernel: true}
	disk := sparseFile(t, 1<<20)
	source := serveIn(t, old, "--file", disk, "--verbose")
	want := fastBytes(3, 64<<10)
	source.write(t, want, 4096)
	for _, text := range []string{"this kernel has no Landlock", "confined landlock_abi=0 seccomp=true"} {
		if !strings.Contains(source.log.String(), text) {
			t.Errorf("the log does not say %q:\n%s", text, source.log.String())
		}
	}
	if source.status()["sandbox"] != "seccomp" {
		t.Errorf("sandbox=%s", source.status()["sandbox"])
	}
	source.wantConfined(map[string]bool{"pid": true, "backend_pid": true, "transport_pid": true, "launcher_pid": true})
	if err := unix.Kill(source.processes()["backend_pid"], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := source.read(t, 4096, len(want)); string(got) != string(want) {
		t.Error("what was written is not read after a restart")
	}
	copied := sparseFile(t, 1<<20)
	destination := start(t, old, "listen", "--file", copied)
	destination.waitReady()
	source.mirror(destination.addr)
	source.departs()
	destination.arrives()
	wantSame(t, disk, copied)
	wantRecords(t, disk, "MIGRATED")
}

// Root starts a server for a low port, with a disk that only root may open; then it is
// somebody else.
func TestRootBecomesAnotherUser(t *testing.T) {
	needsRoot(t, "become another user")
	for name, c := range map[string]struct {
		port      string
		arguments func(t *testing.T) []string
	}{
		"file": {"809", func(t *testing.T) []string { return []string{"--file", ownFile(t, 0)} }},
		"device": {"810", func(t *testing.T) []string {
			return []string{"--file", looptest.New(t, looptest.Options{Size: 1 << 20}).Path}
		}},
		"no sandbox": {"811", func(t *testing.T) []string { return []string{"--no-sandbox", "--file", ownFile(t, 0)} }},
		"another's":  {"812", func(t *testing.T) []string { return []string{"--file", ownFile(t, 4711), "--group", "0"} }},
		"memory":     {"813", func(*testing.T) []string { return []string{"--backend", programs.memory, "--file", "64K"} }},
		"by its number": {"814", func(t *testing.T) []string {
			return []string{"--user", "4712", "--group", "4713", "--file", ownFile(t, 0)}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			arguments := append([]string{"--user", "nobody", "--state-dir", others(t)}, c.arguments(t)...)
			s := serveIn(t, surroundings{port: c.port}, arguments...)
			uid := "65534"
			if name == "by its number" {
				uid = "4712"
			}
			check := func() {
				for process, pid := range s.processes() {
					want := strings.Join([]string{uid, uid, uid, uid}, " ")
					if process == "launcher_pid" {
						want = "0 0 0 0"
					}
					c := credentials(t, pid)
					if c["Uid"] != want {
						t.Errorf("%s has user %s, want %s", process, c["Uid"], want)
					}
					if allowed := map[string]string{"transport_pid": "0000000000000400"}[process]; process != "launcher_pid" &&
						c["CapEff"] != "0000000000000000" && c["CapEff"] != allowed {
						t.Errorf("%s has capabilities %s", process, c["CapEff"])
					}
				}
			}
			check()
			s.write(t, fastBytes(1, 4096), 0)
			for _, plugin := range []string{"transport", "backend"} {
				if name == "memory" && plugin == "backend" {
					continue // what it holds would be gone
				}
				pid := s.processes()[plugin+"_pid"]
				if err := unix.Kill(pid, unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
				eventually(t, "the "+plugin+" is replaced", func() bool {
					status := s.state()
					return status[plugin+"_pid"] != fmt.Sprint(pid) && status["backend_state"] == "serving"
				})
			}
			check()
			if got := s.read(t, 0, 4096); string(got) != string(fastBytes(1, 4096)) {
				t.Error("what was written is not read")
			}
			s.stop(syscall.SIGTERM)
		})
	}
}

// As another user, too, a disk can be given away and comes here: the records are that
// user's.
func TestAnotherUserMigrates(t *testing.T) {
	needsRoot(t, "become another user")
	t.Parallel()
	place := func() string {
		disk := ownFile(t, 0)
		if err := os.Chown(filepath.Dir(disk), nobody, -1); err != nil {
			t.Fatal(err)
		}
		return disk
	}
	from, to := place(), place()
	source := serve(t, "--user", "nobody", "--file", from)
	source.write(t, fastBytes(5, 4096), 0)
	destination := listen(t, "--user", "nobody", "--file", to)
	source.mirror(destination.addr)
	source.departs()
	destination.arrives()
	wantSame(t, from, to)
	for _, record := range []string{from + ".MIGRATED", to + ".RECEIVED"} {
		st, err := os.Stat(record)
		if err != nil {
			t.Fatal(err)
		}
		if uid := st.Sys().(*syscall.Stat_t).Uid; uid != nobody {
			t.Errorf("%s belongs to user %d", record, uid)
		}
	}
}

// others makes a folder that everybody may write to.
func others(t *testing.T) string {
	t.Helper()
	dir := filepath.Dir(ownFile(t, 0))
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestControlSocketsOwnerAndMode(t *testing.T) {
	needsRoot(t, "give files away")
	for name, c := range map[string]struct {
		arguments []string
		uid, gid  uint32
		mode      fs.FileMode
	}{
		"by default":  {nil, 0, 0, 0o600},
		"mode":        {[]string{"--sock-mode", "660"}, 0, 0, 0o660},
		"owner":       {[]string{"--sock-owner", "nobody"}, nobody, 0, 0o600},
		"group":       {[]string{"--sock-owner", ":4713", "--sock-mode", "0620"}, 0, 4713, 0o620},
		"both":        {[]string{"--sock-owner", "4712:daemon"}, 4712, 1, 0o600},
		"user":        {[]string{"--user", "nobody"}, nobody, nobody, 0o600},
		"user, owner": {[]string{"--user", "nobody", "--sock-owner", "root:root", "--sock-mode", "666"}, 0, 0, 0o666},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, append(c.arguments, "--file", ownFile(t, 0))...)
			st, err := os.Stat(s.sock)
			if err != nil {
				t.Fatal(err)
			}
			sys := st.Sys().(*syscall.Stat_t)
			if sys.Uid != c.uid || sys.Gid != c.gid || st.Mode().Perm() != c.mode {
				t.Errorf("owner %d, group %d, mode %#o; want %d, %d, %#o", sys.Uid, sys.Gid, st.Mode().Perm(), c.uid, c.gid, c.mode)
			}
		})
	}
}

// systemd is told when clients can connect, and when they can't any more.
func TestServiceManagerIsTold(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(shortDir(t), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	told := func(want ...string) {
		t.Helper()
		if err := manager.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 4096)
		n, err := manager.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(string(buffer[:n]), w) {
				t.Errorf("it is told %q, want %q in it", buffer[:n], w)
			}
		}
	}
	in := surroundings{environment: []string{"NOTIFY_SOCKET=" + socket}}
	disk, copied := sparseFile(t, 1<<20), sparseFile(t, 1<<20)
	source := serveIn(t, in, "--file", disk)
	told("READY=1\n", fmt.Sprintf("STATUS=serving at %s: %q", source.addr, disk))
	destination := start(t, in, "listen", "--file", copied)
	destination.waitReady()
	told("READY=1\n", "STATUS=waiting for a disk at "+destination.addr)
	source.mirror(destination.addr)
	source.departs()
	destination.arrives()
	told("STATUS=") // the end of one and the beginning of the other, in any order
	told("STATUS=")
	destination.stop(syscall.SIGTERM)
	told("STOPPING=1\n")
}

// The launcher is stopped, by mistake: the server ends all the same, within bounds. And
// where it is gone, a plugin that crashes is not waited for.
func TestLauncherThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	stopped := serve(t, "--file", sparseFile(t, 1<<20))
	if err := unix.Kill(stopped.processes()["launcher_pid"], unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	stopped.stop(syscall.SIGTERM)
	if took := time.Since(begin); took > 15*time.Second {
		t.Errorf("the server took %v to end", took)
	}

	gone := serve(t, "--file", sparseFile(t, 1<<20))
	if err := unix.Kill(gone.processes()["launcher_pid"], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the log says so", func() bool { return strings.Contains(gone.log.String(), "the launcher of plugins has ended") })
	gone.write(t, fastBytes(1, 4096), 0) // what runs goes on
	if err := unix.Kill(gone.processes()["backend_pid"], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the disk has failed", func() bool { return gone.state()["backend_state"] == "failed" })
	gone.signal(syscall.SIGKILL)
	gone.wait()
}

// The user may put what they like into the folder with their plugins' sockets; the
// launcher, which is root, does not follow it there.
func TestLauncherSweepsAsTheUser(t *testing.T) {
	needsRoot(t, "become another user")
	t.Parallel()
	s := serve(t, "--user", "nobody", "--file", ownFile(t, 0))
	precious := filepath.Join(t.TempDir(), "plugin-precious")
	if err := os.WriteFile(precious, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	run := ""
	environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", s.processes()["backend_pid"]))
	if err != nil {
		t.Fatal(err)
	}
	for pair := range strings.SplitSeq(string(environment), "\x00") {
		if dir, ok := strings.CutPrefix(pair, "PLUGIN_UNIX_SOCKET_DIR="); ok {
			run = filepath.Dir(dir)
		}
		if strings.HasPrefix(pair, "HOME=") && pair != "HOME=/nonexistent" {
			t.Errorf("the plugin of nobody has %s", pair)
		}
	}
	if err := os.Symlink(filepath.Dir(precious), filepath.Join(run, "plugin-direvil")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	s.signal(syscall.SIGTERM)
	s.wait()
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
}

// The stock plugins in bundles, as packages bring them, can do what those in the binary
// can, and are confined as well.
func TestBundledStockPluginsForRoot(t *testing.T) {
	needsRoot(t, "listen at a port below 1024")
	t.Parallel()
	dir := t.TempDir()
	license := filepath.Join(dir, "LICENSE")
	if err := os.WriteFile(license, []byte("free\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	plugins := filepath.Join(shortDir(t), "plugins")
	if err := os.MkdirAll(plugins, 0o755); err != nil {
		t.Fatal(err)
	}
	for plugin, needs := range map[string]string{"backend-file": "disk", "transport-tcp": "internet", "transport-unix": "sockets"} {
		must(t, programs.flexnbd, "plugin", "bundle", "--needs", needs, "--license", license, "-o", dir, filepath.Join(programs.plugins, "flexnbd-"+plugin))
	}
	bundles, err := filepath.Glob(filepath.Join(dir, "*.tar.gz"))
	if err != nil || len(bundles) != 3 {
		t.Fatal(bundles, err)
	}
	for _, b := range bundles {
		must(t, programs.flexnbd, "plugin", "install", "--plugin-dir", plugins, b)
	}
	for name, in := range map[string]surroundings{"tcp": {port: "815"}, "unix": {network: "unix"}} {
		t.Run(name, func(t *testing.T) {
			s := serveIn(t, in, "--plugin-dir", plugins, "--backend", "file", "--file", ownFile(t, 4711), "--verbose")
			if path := s.status()["backend_path"]; !strings.HasPrefix(path, plugins) {
				t.Errorf("the backend is %s", path)
			}
			s.wantConfined(map[string]bool{"pid": true, "backend_pid": true, "transport_pid": true})
			s.write(t, fastBytes(1, 4096), 0)
			if got := s.read(t, 0, 4096); string(got) != string(fastBytes(1, 4096)) {
				t.Error("what was written is not read")
			}
		})
	}
}
