// SPDX-License-Identifier: GPL-3.0-or-later

package pythonplugin

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// serving serves a disk of size from the plugin. More arguments follow.
func serving(t *testing.T, verb, size string, args ...string) *server {
	t.Helper()
	s := start(t, verb, append([]string{"--backend", programs.python, "--file", size}, args...)...)
	if state := s.state(); state["backend"] != "python" || state["lane"] != "rpc" || state["size"] != strconv.Itoa(64<<20) {
		t.Errorf("the status is %v", state)
	}
	return s
}

// image makes a file of 64 MiB, of which some is noise and the rest hole.
func image(t *testing.T) (path string, data []byte) {
	t.Helper()
	data = make([]byte, 64<<20)
	noise := rand.NewChaCha8([32]byte{1})
	for _, at := range []int{0, 5<<20 + 512, 63 << 20} {
		_, _ = noise.Read(data[at : at+1<<20])
	}
	path = filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, data
}

// wantBytes compares what a server has with what it should have.
func wantBytes(t *testing.T, s *server, want []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "copied.img")
	must(t, "nbdcopy", s.uri(), path)
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, want) {
		t.Error("the disk's bytes are not what they should be")
	}
}

func TestClientsReadWhatTheyWrote(t *testing.T) {
	s := serving(t, "serve", "64M")
	if size := must(t, "nbdinfo", "--size", s.uri()); size != "67108864\n" {
		t.Errorf("nbdinfo --size: %q", size)
	}
	for _, can := range []string{"flush", "fua", "trim", "zero", "fast-zero", "multi-conn"} {
		must(t, "nbdinfo", "--can", can, s.uri())
	}
	must(t, "qemu-io", "-f", "raw",
		"-c", "write -P 7 4k 1M", "-c", "write -f -P 8 63M 1M",
		"-c", "write -z -u 64k 64k", "-c", "write -z 128k 1000", "-c", "discard 512k 64k", "-c", "flush", s.uri())
	out := must(t, "qemu-io", "-f", "raw",
		"-c", "read -P 7 4k 60k", "-c", "read -P 0 64k 64k", "-c", "read -P 0 128k 1000", "-c", "read -P 7 132072 100k",
		"-c", "read -P 0 512k 64k", "-c", "read -P 8 63M 1M", "-c", "read -P 0 2M 61M", s.uri())
	if strings.Contains(out, "Pattern verification failed") {
		t.Errorf("read back:\n%s", out)
	}
	var runs [][]string
	for line := range strings.Lines(must(t, "nbdinfo", "--map", s.uri())) {
		runs = append(runs, strings.Fields(line)[:3])
	}
	want := [][]string{
		{"0", "65536", "0"}, {"65536", "65536", "3"}, {"131072", "393216", "0"}, {"524288", "65536", "3"},
		{"589824", "524288", "0"}, {"1114112", "64946176", "3"}, {"66060288", "1048576", "0"},
	}
	if len(runs) != len(want) {
		t.Fatalf("the map is %v, want %v", runs, want)
	}
	for i := range want {
		if strings.Join(runs[i], " ") != strings.Join(want[i], " ") {
			t.Errorf("run %d of the map is %v, want %v", i, runs[i], want[i])
		}
	}
	s.stop(0)
}

func TestImageIsCopiedInAndOut(t *testing.T) {
	path, data := image(t)
	s := serving(t, "serve", "64M")
	must(t, "nbdcopy", "--flush", path, s.uri())
	wantBytes(t, s, data)
	s.stop(0)
}

func TestReadOnlyDiskIsServed(t *testing.T) {
	s := serving(t, "serve", "64M", "--read-only")
	must(t, "nbdinfo", "--is", "read-only", s.uri())
	wantBytes(t, s, make([]byte, 64<<20))
	s.stop(0)
}

func TestDiskMovesHere(t *testing.T) {
	path, data := image(t)
	source := start(t, "serve", "--file", path)
	destination := serving(t, "listen", "64M", "--disk-id", "moving")
	host, port, _ := strings.Cut(destination.state()["address"], ":")
	must(t, programs.flexnbd, "mirror", "--sock", source.sock, "--addr", host, "--port", port)
	source.endsWith(0)
	eventually(t, "the disk has arrived", func() bool { return destination.state()["clients_allowed"] == "true" })
	wantBytes(t, destination, data)
	destination.stop(0)
}

// What docs/design.md says of a backend that Survives nothing: EIO for good, no new
// process, and a line in the log that says why.
func TestKilledPluginFailsTheDiskForGood(t *testing.T) {
	s := serving(t, "serve", "64M")
	uri, before := s.uri(), s.state()["backend_pid"]
	must(t, "qemu-io", "-f", "raw", "-c", "write -P 7 0 64k", "-c", "flush", uri)
	pid, err := strconv.Atoi(before)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the disk has failed", func() bool { return s.state()["backend_state"] == "failed" })
	for _, command := range []string{"read 0 64k", "write 0 64k"} {
		if out, _ := run(t, "qemu-io", "-f", "raw", "-c", command, uri); !strings.Contains(out, "Input/output error") {
			t.Errorf("%s: %s", command, out)
		}
	}
	if state := s.state(); state["backend_state"] != "failed" || state["backend_restarts"] != "0" || state["backend_pid"] != before {
		t.Errorf("the status is %v", state)
	}
	if want := "backend python ended, and what was in it is gone with it"; !strings.Contains(s.log.String(), want) {
		t.Errorf("the log does not say: %s", want)
	}
	s.stop(1) // what was acknowledged is lost
}

func TestServerSaysWhyTheDiskIsNotOpened(t *testing.T) {
	for words, args := range map[string][]string{
		"cache":                  {"--backend", programs.python + ",cache=1", "--file", "64M"},
		"--file 64Q: not a size": {"--backend", programs.python, "--file", "64Q"},
	} {
		args = append([]string{"serve", "--addr", "127.0.0.1", "--port", "0", "--state-dir", t.TempDir()}, args...)
		if out, err := run(t, programs.flexnbd, args...); err == nil || !strings.Contains(out, words) {
			t.Errorf("%q: %v, it says %s", args, err, out)
		}
	}
}
