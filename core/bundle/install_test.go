// SPDX-License-Identifier: GPL-3.0-or-later

package bundle

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

// packedFile is a tarball of a good bundle.
func packedFile(t testing.TB, version string) string {
	t.Helper()
	return write(t, filepath.Join(folder(t), "any.tar.gz"), string(packed(t, built(t, version))))
}

func install(t testing.TB, source, into string, opts InstallOptions) {
	t.Helper()
	b, err := Install(source, into, opts)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(into, exeName); b.Dir != want {
		t.Errorf("installed in %s, want %s", b.Dir, want)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

// isInstalled fails unless the plugin is there in that version and right, and nothing else
// is.
func isInstalled(t testing.TB, in, version string) {
	t.Helper()
	b := opened(t, filepath.Join(in, exeName))
	if err := b.Verify(); err != nil {
		t.Error(err)
	}
	if b.Manifest.Version != version {
		t.Errorf("version %s is installed, want %s", b.Manifest.Version, version)
	}
	if entries, err := os.ReadDir(in); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestInstallFromFolderAndTarball(t *testing.T) {
	for _, source := range []string{built(t, "1.0"), packedFile(t, "1.0")} {
		in := folder(t)
		before := snapshot(t, filepath.Dir(source))
		called := 0
		install(t, source, in, InstallOptions{Check: func(b *Bundle) error {
			called++
			if !strings.HasPrefix(b.Dir, filepath.Join(in, ".install-")) || b.Verify() != nil {
				t.Errorf("checked in %s: %v", b.Dir, b.Verify())
			}
			return b.Manifest.Compatible("0.1.0", []int{1}, "linux/amd64")
		}})
		if called != 1 {
			t.Errorf("Check was called %d times", called)
		}
		isInstalled(t, in, "1.0")
		unchanged(t, filepath.Dir(source), before)
	}
}

func TestInstallIgnoresModesAndUmask(t *testing.T) {
	source := built(t, "1.0")
	if err := errors.Join(os.Chmod(filepath.Join(source, exeName), 0o6777), os.Chmod(filepath.Join(source, "LICENSE"), 0o777)); err != nil {
		t.Fatal(err)
	}
	in := folder(t)
	old := unix.Umask(0)
	install(t, source, in, InstallOptions{})
	unix.Umask(old)
	for name, want := range map[string]os.FileMode{exeName: 0o755, "LICENSE": 0o644, ".": 0o755 | os.ModeDir} {
		if st, err := os.Stat(filepath.Join(in, exeName, name)); err != nil || st.Mode() != want {
			t.Errorf("%s: %v, %v; want %v", name, st.Mode(), err, want)
		}
	}
}

func TestInstallOverInstalled(t *testing.T) {
	in := folder(t)
	install(t, built(t, "1.0"), in, InstallOptions{})
	before := snapshot(t, in)
	for _, c := range []struct{ version, says string }{
		{"1.0", "this is the same version, 1.0"},
		{"2.0", "this is version 2.0"},
	} {
		_, err := Install(packedFile(t, c.version), in, InstallOptions{Check: func(*Bundle) error {
			t.Error("the binary would have been run for nothing")
			return nil
		}})
		if !errors.Is(err, ErrInstalled) {
			t.Error(err)
		}
		says(t, err, "backend memory 1.0 is already installed in "+in, c.says, "--replace")
		unchanged(t, in, before)
	}
	install(t, packedFile(t, "2.0"), in, InstallOptions{Replace: true})
	isInstalled(t, in, "2.0")
	install(t, packedFile(t, "2.0"), in, InstallOptions{Replace: true})
	isInstalled(t, in, "2.0")
	// Also from the very place where it is.
	install(t, filepath.Join(in, exeName), in, InstallOptions{Replace: true})
	isInstalled(t, in, "2.0")
}

// --replace is how a damaged bundle is repaired.
func TestReplaceRepairs(t *testing.T) {
	in := folder(t)
	install(t, built(t, "1.0"), in, InstallOptions{})
	dir := filepath.Join(in, exeName)
	outside := write(t, filepath.Join(folder(t), "precious"), "data")
	if err := errors.Join(os.Remove(filepath.Join(dir, SumsFile)), os.Symlink(outside, filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	install(t, built(t, "1.0"), in, InstallOptions{Replace: true})
	isInstalled(t, in, "1.0")
	if _, err := os.Stat(outside); err != nil {
		t.Error(err)
	}
}

func TestFailedInstallLeavesNothing(t *testing.T) {
	no := errors.New("the binary says that it is another")
	changed := func(change func(dir string)) string {
		dir := built(t, "2.0")
		change(dir)
		return dir
	}
	pipe := filepath.Join(folder(t), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	secret := write(t, filepath.Join(folder(t), "secret"), "do as you like\n")
	large := raw(tarEntry{name: top + "x", size: 8<<30 - 1})
	var bombed bytes.Buffer
	if _, err := io.CopyN(&bombed, bomb(t, large), 1<<20); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, source string
		check        error
		is           error
	}{
		{"Check", built(t, "2.0"), no, no},
		{"nothing there", filepath.Join(folder(t), "x"), nil, os.ErrNotExist},
		{"pipe", pipe, nil, errIrregular},
		{"empty folder", folder(t), nil, ErrNotBundle},
		{"changed file", changed(func(dir string) { write(t, filepath.Join(dir, "LICENSE"), "") }), nil, ErrTampered},
		{"missing file", changed(func(dir string) { os.Remove(filepath.Join(dir, "LICENSE")) }), nil, ErrTampered},
		{"extra file", changed(func(dir string) { write(t, filepath.Join(dir, "x"), "") }), nil, ErrTampered},
		{"extra folder", changed(func(dir string) { _ = os.Mkdir(filepath.Join(dir, "x"), 0o755) }), nil, ErrTampered},
		{"no sums", changed(func(dir string) { os.Remove(filepath.Join(dir, SumsFile)) }), nil, ErrNotBundle},
		{"link to outside", changed(func(dir string) {
			os.Remove(filepath.Join(dir, "LICENSE"))
			_ = os.Symlink(secret, filepath.Join(dir, "LICENSE"))
		}), nil, ErrTampered},
		{"huge file", changed(func(dir string) { _ = os.Truncate(filepath.Join(dir, "LICENSE"), 1<<40) }), nil, ErrTooLarge},
		{"damaged tarball", write(t, filepath.Join(folder(t), "x"), "no gzip"), nil, ErrMalformed},
		{"tarball with another folder", write(t, filepath.Join(folder(t), "x"), string(tarball(t, tarEntry{name: "x/plugin.json", data: encoded(t, manifest())}))), nil, ErrMalformed},
		{"bomb", write(t, filepath.Join(folder(t), "x"), bombed.String()), nil, ErrTooLarge},
	} {
		t.Run(c.what, func(t *testing.T) {
			for _, replace := range []bool{false, true} {
				in := folder(t)
				if replace {
					install(t, built(t, "1.0"), in, InstallOptions{})
				}
				before := snapshot(t, in)
				_, err := Install(c.source, in, InstallOptions{Replace: replace, Check: func(*Bundle) error { return c.check }})
				if !errors.Is(err, c.is) {
					t.Errorf("got %v, want %v", err, c.is)
				}
				says(t, err, "cannot install "+c.source)
				unchanged(t, in, before)
			}
		})
	}
}

func TestInstallTouchesNothingForeign(t *testing.T) {
	for _, c := range []struct {
		what string
		make func(path string) error
		says string
	}{
		{"plain binary", func(path string) error { return os.WriteFile(path, []byte("binary"), 0o755) }, "plain file"},
		{"link", func(path string) error { return os.Symlink("/nowhere", path) }, "symbolic link"},
		{"empty folder", func(path string) error { return os.Mkdir(path, 0o755) }, "plugin.json"},
		{"bundle of another", func(path string) error {
			return os.Rename(built(t, "1.0", func(m *Manifest) { m.Name = "other" }), path)
		}, "is of backend other 1.0"},
		{"bundle of another kind", func(path string) error {
			return os.Rename(built(t, "1.0", func(m *Manifest) { m.Kind = "transport" }), path)
		}, "is of transport memory 1.0"},
		{"bundle with a folder inside", func(path string) error {
			return errors.Join(os.Rename(built(t, "1.0"), path), os.MkdirAll(filepath.Join(path, "data", "precious"), 0o755))
		}, `"data"`},
		{"bundle with a broken manifest", func(path string) error {
			return errors.Join(os.Rename(built(t, "1.0"), path), os.WriteFile(filepath.Join(path, ManifestFile), nil, 0o644))
		}, "move it away"},
	} {
		t.Run(c.what, func(t *testing.T) {
			in := folder(t)
			path := filepath.Join(in, exeName)
			if err := c.make(path); err != nil {
				t.Fatal(err)
			}
			before := snapshot(t, in)
			_, errNew := Install(built(t, "2.0"), in, InstallOptions{})
			_, errReplace := Install(built(t, "2.0"), in, InstallOptions{Replace: true})
			errRemove := Uninstall(in, wire.KindBackend, "memory")
			for _, err := range []error{errNew, errReplace, errRemove} {
				if !errors.Is(err, ErrNotBundle) {
					t.Error(err)
				}
				says(t, err, path, c.says)
			}
			unchanged(t, in, before)
		})
	}
}

// What takes the place while Check runs is found as well.
func TestInstallTouchesNothingForeignThatComesLate(t *testing.T) {
	for _, replace := range []bool{false, true} {
		in := folder(t)
		path := filepath.Join(in, exeName)
		if replace {
			install(t, built(t, "1.0"), in, InstallOptions{})
		}
		_, err := Install(built(t, "2.0"), in, InstallOptions{Replace: replace, Check: func(*Bundle) error {
			_ = os.RemoveAll(path)
			write(t, path, "binary")
			return nil
		}})
		if !errors.Is(err, ErrNotBundle) {
			t.Error(err)
		}
		if entries, err := os.ReadDir(in); err != nil || len(entries) != 1 || !entries[0].Type().IsRegular() {
			t.Errorf("%v, %v", entries, err)
		}
	}
}

// A foreign thing that comes between the last look and the exchange is put back.
func TestExchangeIsTakenBackForForeign(t *testing.T) {
	in := folder(t)
	source := filepath.Join(in, temporaryName(prefixInstall))
	if err := os.Rename(built(t, "2.0"), source); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(in, exeName), "binary")
	before := snapshot(t, in)
	p, err := openPlace(in)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	err = p.putInstead(opened(t, source), filepath.Base(source), exeName)
	if !errors.Is(err, ErrNotBundle) {
		t.Error(err)
	}
	unchanged(t, in, before)
	if err := p.rename(filepath.Base(source), exeName); !errors.Is(err, os.ErrExist) {
		t.Errorf("rename to a name that is taken: %v", err)
	}
	unchanged(t, in, before)
}

func TestPluginFolderThatFlexnbdWouldNotTrust(t *testing.T) {
	in := folder(t)
	if err := os.Chmod(in, 0o775); err != nil {
		t.Fatal(err)
	}
	_, err := Install(built(t, "1.0"), in, InstallOptions{})
	says(t, err, in, "chmod go-w")
	unchanged(t, in, map[string]string{})
	if os.Geteuid() == 0 {
		if err := errors.Join(os.Chmod(in, 0o755), os.Chown(in, 4711, 0)); err != nil {
			t.Fatal(err)
		}
		_, err := Install(built(t, "1.0"), in, InstallOptions{})
		says(t, err, in, "belongs to user 4711")
	}
	_, err = Install(built(t, "1.0"), filepath.Join(in, "x"), InstallOptions{})
	says(t, err, "mkdir -p")
}

func TestConcurrentInstallsOneWins(t *testing.T) {
	in := folder(t)
	sources := []string{packedFile(t, "1.0"), packedFile(t, "1.0"), packedFile(t, "1.0"), packedFile(t, "1.0")}
	// All are past the first look before one goes on.
	var ready, done sync.WaitGroup
	ready.Add(len(sources))
	errs := make([]error, len(sources))
	for i, source := range sources {
		done.Go(func() {
			var b *Bundle
			if b, errs[i] = Install(source, in, InstallOptions{Check: func(*Bundle) error {
				ready.Done()
				ready.Wait()
				return nil
			}}); errs[i] == nil {
				b.Close()
			}
		})
	}
	done.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, ErrInstalled) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d of %d installed it", won, len(sources))
	}
	isInstalled(t, in, "1.0")
}

func TestConcurrentReplacesLeaveOneWholeBundle(t *testing.T) {
	in := folder(t)
	var done sync.WaitGroup
	var versions []string
	for i := range 8 {
		versions = append(versions, strconv.Itoa(i))
		source := packedFile(t, versions[i])
		done.Go(func() {
			for range 3 {
				b, err := Install(source, in, InstallOptions{Replace: true})
				if err != nil {
					t.Error(err)
					return
				}
				b.Close()
			}
		})
	}
	done.Go(func() { // whoever looks sees a whole one
		for range 100 {
			b, err := Open(filepath.Join(in, exeName))
			if err != nil {
				continue // not yet, or it was removed between our looks
			}
			if f, err := b.OpenExecutable(); err == nil {
				f.Close()
			} else if errors.Is(err, ErrTampered) {
				t.Error(err)
			}
			b.Close()
		}
	})
	done.Wait()
	b := opened(t, filepath.Join(in, exeName))
	if !slices.Contains(versions, b.Manifest.Version) {
		t.Error(b.Manifest.Version)
	}
	isInstalled(t, in, b.Manifest.Version)
}

// This binary sleeps as the plugin that is running.
func TestMain(m *testing.M) {
	if os.Getenv("BUNDLE_TEST_PLUGIN") != "" {
		_, _ = os.Stdout.WriteString("up\n")
		_, _ = io.Copy(io.Discard, os.Stdin)
		_, _ = os.Stdout.WriteString("still here\n")
		os.Exit(0)
	}
	// A disk that others keep busy would take seconds.
	fsync = func(*os.File) error { return nil }
	os.Exit(m.Run())
}

// Whichever fsync fails, the plugin folder is as it was.
func TestFailedSyncLeavesNothing(t *testing.T) {
	working := fsync
	defer func() { fsync = working }()
	for _, there := range []bool{false, true} {
		in := folder(t)
		if there {
			install(t, built(t, "1.0"), in, InstallOptions{})
		}
		before := snapshot(t, in)
		source := packedFile(t, "2.0")
		for good := 0; ; good++ {
			left := good
			fsync = func(f *os.File) error {
				if left--; left < 0 {
					return &os.PathError{Op: "sync", Path: f.Name(), Err: unix.EIO}
				}
				return nil
			}
			b, err := Install(source, in, InstallOptions{Replace: true})
			if err == nil {
				b.Close()
				if good != 8 { // six files, the bundle's folder, the plugin folder
					t.Errorf("%d files and folders were made durable", good)
				}
				break
			}
			if !errors.Is(err, unix.EIO) {
				t.Fatal(err)
			}
			says(t, err, "fsync", in)
			unchanged(t, in, before)
		}
		isInstalled(t, in, "2.0")
		before = snapshot(t, in)
		fsync = func(*os.File) error { return unix.EIO }
		if err := Uninstall(in, wire.KindBackend, "memory"); !errors.Is(err, unix.EIO) {
			t.Error(err)
		}
		unchanged(t, in, before)
		fsync = working
	}
}

func TestRunningPluginSurvivesReplaceAndUninstall(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(folder(t), "x")
	b, err := Build(dir, manifest(), map[string]string{exeName: self})
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	in := folder(t)
	install(t, dir, in, InstallOptions{})
	exe, err := opened(t, filepath.Join(in, exeName)).OpenExecutable()
	if err != nil {
		t.Fatal(err)
	}
	// By the descriptor, as flexnbd may do it.
	plugin := exec.Command("/proc/self/fd/3")
	plugin.ExtraFiles = []*os.File{exe}
	plugin.Env = append(os.Environ(), "BUNDLE_TEST_PLUGIN=1", "GORACE=atexit_sleep_ms=0")
	stdin, err := plugin.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := plugin.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := plugin.Start(); err != nil {
		t.Fatal(err)
	}
	exe.Close()
	defer func() { _ = plugin.Wait() }()
	defer stdin.Close()
	if _, err := io.ReadFull(stdout, make([]byte, len("up\n"))); err != nil {
		t.Fatal(err)
	}
	install(t, built(t, "2.0"), in, InstallOptions{Replace: true})
	isInstalled(t, in, "2.0")
	if err := Uninstall(in, wire.KindBackend, "memory"); err != nil {
		t.Fatal(err)
	}
	stdin.Close()
	if out, err := io.ReadAll(stdout); err != nil || string(out) != "still here\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestInstallSweepsWhatWasAbandoned(t *testing.T) {
	in := folder(t)
	long := time.Now().Add(-2 * time.Hour)
	make := func(name string, inside func(dir string)) string {
		dir := filepath.Join(in, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, ManifestFile), "{")
		if inside != nil {
			inside(dir)
		}
		if err := os.Chtimes(dir, long, long); err != nil {
			t.Fatal(err)
		}
		return name
	}
	make(".install-0123456789abcdef", nil)
	make(".remove-0123456789abcdef", func(dir string) { _ = os.Symlink("/etc", filepath.Join(dir, "etc")) })
	held := make(".install-1111111111111111", nil)
	want := []string{
		held,
		make(".install-folder-inside", nil),
		make(".install-2222222222222222", func(dir string) { _ = os.Mkdir(filepath.Join(dir, "x"), 0o700) }),
		make(".install-mine", nil),
		make(".install-cafe", nil),
		make(".install-0123456789abcdeg", nil),
		make("flexnbd-backend-other", nil),
	}
	recent := make(".install-3333333333333333", nil)
	if err := os.Chtimes(filepath.Join(in, recent), time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
	want = append(want, recent)
	if os.Geteuid() == 0 {
		want = append(want, make(".install-4444444444444444", func(dir string) { _ = os.Chown(dir, 4711, 0) }))
	}
	write(t, filepath.Join(in, ".install-5555555555555555"), "no folder")
	want = append(want, ".install-5555555555555555")

	root, err := os.OpenRoot(filepath.Join(in, held))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	release, ok := hold(root)
	if !ok {
		t.Fatal("the folder for temporary files is on a file system whose folders cannot be locked; set TMPDIR to another")
	}
	defer release()

	install(t, built(t, "1.0"), in, InstallOptions{})
	want = append(want, exeName)
	slices.Sort(want)
	var got []string
	entries, err := os.ReadDir(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("there is\n%v, want\n%v", got, want)
	}
}

func TestUninstall(t *testing.T) {
	in := folder(t)
	install(t, built(t, "1.0"), in, InstallOptions{})
	install2, err := Install(built(t, "1.0", func(m *Manifest) { m.Name = "other" }), in, InstallOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer install2.Close()
	other := snapshot(t, install2.Dir)
	// Damage, and a link, are no reason to keep it.
	outside := write(t, filepath.Join(folder(t), "precious"), "data")
	dir := filepath.Join(in, exeName)
	if err := errors.Join(os.Remove(filepath.Join(dir, "LICENSE")), os.Symlink(outside, filepath.Join(dir, "LICENSE")),
		os.Symlink(filepath.Dir(outside), filepath.Join(dir, "folder"))); err != nil {
		t.Fatal(err)
	}
	if err := Uninstall(in, wire.KindBackend, "memory"); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(in); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	unchanged(t, install2.Dir, other)
	if _, err := os.Stat(outside); err != nil {
		t.Error(err)
	}
	err = Uninstall(in, wire.KindBackend, "memory")
	if !errors.Is(err, ErrNotInstalled) {
		t.Error(err)
	}
	says(t, err, "cannot uninstall backend memory", in, "flexnbd plugin list")
}

func TestUninstallRefusesNames(t *testing.T) {
	in := folder(t)
	install(t, built(t, "1.0"), in, InstallOptions{})
	before := snapshot(t, in)
	for _, name := range []string{"", ".", "..", "../" + exeName, "memory/", "Memory"} {
		if err := Uninstall(in, wire.KindBackend, name); !errors.Is(err, ErrNotInstalled) {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, kind := range []wire.Kind{0, 3, wire.KindTransport} {
		if err := Uninstall(in, kind, "memory"); !errors.Is(err, ErrNotInstalled) {
			t.Errorf("%v: %v", kind, err)
		}
	}
	unchanged(t, in, before)
}

func TestConcurrentUninstallsOneWins(t *testing.T) {
	in := folder(t)
	install(t, built(t, "1.0"), in, InstallOptions{})
	var done sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		done.Go(func() { errs[i] = Uninstall(in, wire.KindBackend, "memory") })
	}
	done.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, ErrNotInstalled) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d uninstalled it", won)
	}
	unchanged(t, in, map[string]string{})
}
