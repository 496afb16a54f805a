// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Plugins that were built with the SDK of former times, as it was shipped then, keep
// their contract with the core of today, survive a crash, and take part in migrations.
func TestOldPlugins(t *testing.T) {
	t.Parallel()
	versions, err := filepath.Glob("../old-plugins/[0-9]*")
	if err != nil || len(versions) == 0 {
		t.Fatalf("there are no old plugins: %v", err)
	}
	proxy, err := filepath.Abs("../old-plugins/goproxy")
	if err != nil {
		t.Fatal(err)
	}
	cache := filepath.Join(filepath.Dir(programs.flexnbd), "old")
	variables, err := goWith(proxy, cache)
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range versions {
		t.Run(filepath.Base(version), func(t *testing.T) {
			t.Parallel()
			dir := buildOld(t, version, variables)
			for name, arguments := range map[string][]string{
				"not lent":  {"backend-old,lend=no"},
				"transport": {"transport-old"},
			} {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					arguments := append([]string{"plugin", "check", "--plugin-dir", dir}, arguments...)
					if out, err := exec.CommandContext(t.Context(), programs.flexnbd, arguments...).CombinedOutput(); err != nil {
						t.Errorf("%v: %v\n%s", arguments, err, out)
					}
				})
			}
			for _, lane := range []string{"file", "ring", "rpc"} {
				t.Run("crash and migration, lane "+lane, func(t *testing.T) {
					t.Parallel()
					oldPluginsServe(t, dir, lane)
				})
			}
		})
	}
}

// buildOld builds the plugins of one SDK and returns the folder that they are in.
func buildOld(t *testing.T, version string, variables []string) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "plugins")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"backend", "transport"} {
		// -mod=readonly: go.sum has the digest of the SDK, which nobody has changed.
		cmd := exec.Command("go", "build", "-mod=readonly", "-o", filepath.Join(dir, "flexnbd-"+kind+"-old"), ".")
		cmd.Dir, cmd.Env = filepath.Join(version, kind), append(os.Environ(), variables...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v in %s: %v\n%s", cmd.Args, cmd.Dir, err, out)
		}
	}
	return dir
}

func oldPluginsServe(t *testing.T, dir, lane string) {
	const size = 4 << 20
	content := fastBytes(11, size)
	data, copied := filepath.Join(t.TempDir(), "disk"), sparseFile(t, size)
	if err := os.WriteFile(data, content, 0o600); err != nil {
		t.Fatal(err)
	}
	backend := map[string]string{"file": "old", "ring": "old,lend=no", "rpc": "old,lend=no"}[lane]
	arguments := []string{"--plugin-dir", dir, "--backend", backend, "--transport", "old", "--lane", lane}
	source := serve(t, append(arguments, "--file", data)...)
	if got := source.status()["lane"]; got != lane {
		t.Errorf("the data goes over lane %s", got)
	}
	pid := number(t, source.state()["backend_pid"])
	copy(content[size/2:], "new")
	source.write(t, []byte("new"), size/2)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := string(source.read(t, size/2, 3)); got != "new" {
		t.Errorf("after a crash, read %q", got)
	}
	destination := listen(t, append(arguments, "--file", copied)...)
	source.mirror(destination.addr)
	source.departs()
	destination.arrives()
	if got := destination.read(t, 0, size); string(got) != string(content) {
		t.Error("after a migration, the disk holds something else")
	}
	destination.stop(syscall.SIGTERM)
}
