// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Whose a disk is stands beside it, and every command that finds another's refuses.

// doesNotStart starts a server that has to end at once with a status and words.
func doesNotStart(t *testing.T, status int, words []string, verb string, arguments ...string) {
	t.Helper()
	s := start(t, surroundings{}, verb, arguments...)
	if got := s.wait(); got != status {
		t.Errorf("%s %q: exit status %d, want %d", verb, arguments, got, status)
	}
	for _, word := range words {
		if !strings.Contains(s.log.String(), word) {
			t.Errorf("%s %q does not say %q:\n%s", verb, arguments, word, s.log.String())
		}
	}
	if exists(t, s.sock) {
		t.Error("the control socket is still there")
	}
}

// migrated is a disk that has been migrated, and both servers stopped.
func migrated(t *testing.T, arguments ...string) (data, copied string) {
	t.Helper()
	data, copied = dataFile(t, 64<<10), sparseFile(t, 64<<10)
	source := serve(t, "--file", data)
	destination := listen(t, "--file", copied)
	source.mirror(destination.addr, arguments...)
	source.departs()
	destination.arrives()
	destination.stop(syscall.SIGTERM)
	wantRecords(t, data, "MIGRATED")
	wantRecords(t, copied, "RECEIVED")
	return data, copied
}

func TestServeOfADepartedImage(t *testing.T) {
	t.Parallel()
	data, copied := migrated(t)
	doesNotStart(t, 3, []string{data + ".MIGRATED", "given away to 127.0.0.1:", "What to do"}, "serve", "--file", data)
	doesNotStart(t, 3, []string{"given away to"}, "serve", "--file", data, "--read-only")

	// By another name it is the same image.
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(data, link); err != nil {
		t.Fatal(err)
	}
	doesNotStart(t, 3, []string{"given away to"}, "serve", "--file", link)
	wantRecords(t, data, "MIGRATED")

	s := serve(t, "--file", data, "--ignore-migrated")
	s.wantLog("as --ignore-migrated says")
	wantRecords(t, data, "MIGRATED.next")
	s.read(t, 0, 512)
	s.stop(syscall.SIGTERM)
	serve(t, "--file", data).read(t, 0, 512) // from now on without it
	serve(t, "--file", copied).read(t, 0, 512)
}

func TestServeOfAnIncompleteImage(t *testing.T) {
	t.Parallel()
	copied := sparseFile(t, 64<<10)
	destination := listen(t, "--file", copied)
	wantRecords(t, copied, "INCOMPLETE")
	destination.stop(syscall.SIGTERM)
	wantRecords(t, copied, "INCOMPLETE")
	for _, arguments := range [][]string{{}, {"--read-only"}, {"--ignore-migrated"}} {
		doesNotStart(t, 3, []string{copied + ".INCOMPLETE", "What to do"}, "serve", append(arguments, "--file", copied)...)
	}
	wantRecords(t, copied, "INCOMPLETE")
	for _, arguments := range [][]string{{}, {"--or-serve"}, {"--overwrite"}} {
		again := listen(t, append(arguments, "--file", copied)...)
		if state := again.state(); state["has_control"] != "false" {
			t.Errorf("listen %q on an incomplete image: %v", arguments, state)
		}
		again.stop(syscall.SIGTERM)
	}
}

func TestListenOnAnImageThatIsServed(t *testing.T) {
	t.Parallel()
	data := dataFile(t, 64<<10)
	serve(t, "--file", data)
	doesNotStart(t, 1, []string{data}, "listen", "--file", data)
	doesNotStart(t, 1, []string{data}, "listen", "--file", data, "--overwrite")
	wantRecords(t, data)
	waiting := sparseFile(t, 64<<10)
	listen(t, "--file", waiting)
	doesNotStart(t, 1, []string{waiting}, "serve", "--file", waiting)
	doesNotStart(t, 1, []string{waiting}, "listen", "--file", waiting)
}

// The right copy of a disk is not overwritten by mistake.
func TestListenOnTheRightCopy(t *testing.T) {
	t.Parallel()
	_, copied := migrated(t)
	before, err := os.ReadFile(copied)
	if err != nil {
		t.Fatal(err)
	}
	doesNotStart(t, 3, []string{copied + ".RECEIVED", "--overwrite", "--or-serve"}, "listen", "--file", copied)
	wantRecords(t, copied, "RECEIVED")

	served := listen(t, "--file", copied, "--or-serve")
	if state := served.state(); state["has_control"] != "true" || state["clients_allowed"] != "true" {
		t.Errorf("listen --or-serve on the right copy: %v", state)
	}
	if got := served.read(t, 0, 64<<10); string(got) != string(before) {
		t.Error("read is not what was migrated")
	}
	served.stop(syscall.SIGTERM)
	wantRecords(t, copied, "RECEIVED")

	overwritten := listen(t, "--file", copied, "--overwrite")
	overwritten.wantLog("as --overwrite says")
	if state := overwritten.state(); state["has_control"] != "false" {
		t.Errorf("listen --overwrite: %v", state)
	}
	if got := records(t, copied); len(got) == 0 || got[0] != "INCOMPLETE" {
		t.Errorf("listen --overwrite leaves the records %q", got)
	}
	overwritten.stop(syscall.SIGTERM)
	doesNotStart(t, 3, []string{"INCOMPLETE"}, "serve", "--file", copied)
}

// --or-serve serves at once where it would have moved to.
func TestListenOrServeAtTheRebindAddress(t *testing.T) {
	t.Parallel()
	data, copied := dataFile(t, 64<<10), sparseFile(t, 64<<10)
	arguments := []string{"--file", copied, "--or-serve", "--rebind-addr", "127.0.0.2", "--rebind-port", freePort(t)}
	source := serve(t, "--file", data)
	destination := listen(t, arguments...)
	source.mirror(destination.addr)
	source.departs()
	destination.arrives()
	home := destination.addr
	destination.stop(syscall.SIGTERM)
	again := listen(t, arguments...)
	again.reaches("address", home)
	again.arrives()
	again.read(t, 0, 512)
}

func TestListenWithoutAPlaceForRecords(t *testing.T) {
	t.Parallel()
	needsRoot(t, "mount a file system")
	needs(t, "mount", "umount")
	t.Run("full", func(t *testing.T) {
		full := fullFileSystem(t)
		copied := filepath.Join(full, "disk")
		doesNotStart(t, 1, []string{"no space left on device", copied}, "listen", "--file", copied)
		wantRecords(t, copied)
	})
	t.Run("read-only", func(t *testing.T) {
		dir := mountAt(t, "-t", "tmpfs", "-o", "size=1M", "none")
		state := filepath.Join(dir, "state")
		if err := os.Mkdir(state, 0o700); err != nil {
			t.Fatal(err)
		}
		must(t, "mount", "-o", "remount,ro", dir)
		doesNotStart(t, 1, []string{"read-only file system", state}, "listen", "--file", "65536", "--backend", programs.memory, "--disk-id", "x", "--state-dir", state)
	})
}

// fullFileSystem has a disk of 64 KiB and no space for anything else.
func fullFileSystem(t *testing.T) string {
	t.Helper()
	dir := mountAt(t, "-t", "tmpfs", "-o", "size=256K", "none")
	if err := os.WriteFile(filepath.Join(dir, "disk"), fastBytes(1, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	_ = f.Close()
	return dir
}

// A source that cannot write down that it gives its disk away does not begin, and
// says so at its start.
func TestMirrorWithoutAPlaceForRecords(t *testing.T) {
	t.Parallel()
	needsRoot(t, "mount a file system")
	needs(t, "mount", "umount")
	dir := fullFileSystem(t)
	data, copied := filepath.Join(dir, "disk"), sparseFile(t, 64<<10)
	source := serve(t, "--file", data)
	source.wantLog("cannot be migrated")
	destination := listen(t, "--file", copied)
	source.refusesMirror("The migration's records cannot be written: ", destination.addr)
	source.read(t, 0, 512)
	if err := os.Remove(filepath.Join(dir, "ballast")); err != nil {
		t.Fatal(err)
	}
	source.mirror(destination.addr)
	source.departs()
	destination.arrives()
	wantSame(t, data, copied)
	destination.stop(syscall.SIGTERM)
}

// A device's records follow the device, whatever its node is called, and are not
// beside the node.
func TestRecordsOfABlockDevice(t *testing.T) {
	t.Parallel()
	device := newMovable(t, blockdev, 1<<20)
	destination := listen(t, device.arguments...)
	state := device.arguments[1]
	destination.stop(syscall.SIGTERM)
	kept, err := os.ReadDir(state)
	if err != nil || len(kept) == 0 {
		t.Fatalf("the state directory has %v (%v)", kept, err)
	}
	doesNotStart(t, 3, []string{state, "INCOMPLETE"}, "serve", device.arguments...)
	node := filepath.Join(shortDir(t), "another-name")
	if err := os.Symlink(device.path, node); err != nil {
		t.Fatal(err)
	}
	doesNotStart(t, 3, []string{state, "INCOMPLETE"}, "serve", "--state-dir", state, "--file", node)
}

// What is written on the command line is looked at before anything is done.
func TestBadMigrationCommands(t *testing.T) {
	t.Parallel()
	copied := sparseFile(t, 64<<10)
	listening := func(arguments ...string) []string {
		return append([]string{"listen", "--addr", "127.0.0.1", "--port", "0", "--file", copied}, arguments...)
	}
	for _, bad := range []struct {
		words     string
		arguments []string
	}{
		{"--rebind-port 0", listening("--rebind-port", "0")},
		{"--rebind-port", listening("--rebind-addr", "127.0.0.2")},
		{"has a path and no port", []string{"listen", "--transport", "unix", "--addr", filepath.Join(shortDir(t), "x"), "--rebind-port", "4777", "--file", copied}},
		{"is no port number", listening("--rebind-port", "70000")},
		{"use one of them", listening("--or-serve", "--overwrite")},
		{"--handshake", listening("--handshake", "middle")},
		{"unknown flag", listening("--read-only")},
		{"unknown flag", listening("--ignore-migrated")},
		{"--disk-id", listening("--disk-id", "a name")},
		{"was not specified", []string{"mirror", "--sock", "x"}},
		{"--max-pause", []string{"mirror", "--sock", "x", "--addr", "127.0.0.1", "--port", "1", "--max-pause", "10us"}},
		{"--max-speed", []string{"mirror", "--sock", "x", "--addr", "127.0.0.1", "--port", "1", "--max-speed", "-5"}},
		{"--max-speed", []string{"mirror", "--sock", "x", "--addr", "127.0.0.1", "--port", "1", "--max-speed", "9223372036854775807K"}},
		{"unexpected argument", []string{"mirror", "--sock", "x", "--addr", "127.0.0.1", "--port", "1", "more"}},
		{"was not specified", []string{"break"}},
		{"unexpected argument", []string{"break", "--sock", "x", "now"}},
		{"ID", []string{"promote", "--sock", "x"}},
		{"was not specified", []string{"mirror-speed", "--sock", "x"}},
		{"at least 10ms", []string{"status", "--sock", "x", "--watch=1ms"}},
	} {
		cmd := exec.Command(programs.flexnbd, bad.arguments...)
		text, _ := cmd.CombinedOutput()
		if status := cmd.ProcessState.ExitCode(); status != 2 || !strings.Contains(string(text), bad.words) {
			t.Errorf("%q: exit status %d, it says %q, want 2 and %q", bad.arguments, status, text, bad.words)
		}
	}
	wantRecords(t, copied)
}

// A to B to A: each time the records say which copy is the right one.
func TestMigrateThereAndBack(t *testing.T) {
	t.Parallel()
	a, b := dataFile(t, 1<<20), sparseFile(t, 1<<20)
	first := serve(t, "--file", a)
	second := listen(t, "--file", b)
	first.mirror(second.addr)
	first.departs()
	second.arrives()
	want := fastBytes(7, 64<<10)
	second.write(t, want, 4096)

	third := listen(t, "--file", a) // what was given away may be overwritten
	wantRecords(t, a, "INCOMPLETE")
	second.mirror(third.addr)
	second.departs()
	third.arrives()
	wantSame(t, a, b)
	wantRecords(t, a, "RECEIVED")
	wantRecords(t, b, "MIGRATED", "RECEIVED")
	if got := third.read(t, 4096, len(want)); string(got) != string(want) {
		t.Error("read is not what was written at the other server")
	}
	doesNotStart(t, 3, []string{"given away"}, "serve", "--file", b)
	third.stop(syscall.SIGTERM)
	serve(t, "--file", a).read(t, 0, 512)
	for _, s := range []*server{first, second, third} {
		s.silentLog()
	}
}

// A to B to C.
func TestMigrateOn(t *testing.T) {
	t.Parallel()
	a, b, c := dataFile(t, 1<<20), sparseFile(t, 1<<20), sparseFile(t, 1<<20)
	first, second, third := serve(t, "--file", a), listen(t, "--file", b), listen(t, "--file", c)
	first.mirror(second.addr)
	first.departs()
	second.arrives()
	second.mirror(third.addr)
	second.departs()
	third.arrives()
	wantSame(t, a, c)
	wantRecords(t, a, "MIGRATED")
	wantRecords(t, b, "MIGRATED", "RECEIVED")
	wantRecords(t, c, "RECEIVED")
	doesNotStart(t, 3, []string{third.addr}, "serve", "--file", b)
}
