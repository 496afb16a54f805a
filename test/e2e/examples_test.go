// SPDX-License-Identifier: GPL-3.0-or-later

//go:build examples

package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The examples are built and tested as their authors would, with the SDK as it is
// shipped, and keep their contract as binaries, too.
func TestExamples(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"backend-xts", "backend-http"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			variables, err := author()
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(t.TempDir(), name)
			if err := os.CopyFS(dir, os.DirFS(filepath.Join("../../examples", name))); err != nil {
				t.Fatal(err)
			}
			run := func(command string, arguments ...string) {
				t.Helper()
				cmd := exec.CommandContext(t.Context(), command, arguments...)
				cmd.Dir, cmd.Env = dir, append(os.Environ(), variables...)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
				}
			}
			run("go", "mod", "edit", "-dropreplace", "github.com/flexnbd/flexnbd")
			run("go", "build", "-mod=mod", "-o", "flexnbd-"+name, ".")
			run("go", "vet", "./...")
			run("go", "test", "./...")
			if name != "backend-xts" {
				return // the other one's disk is on a web server, and can't be written
			}
			key, image := filepath.Join(dir, "key"), filepath.Join(dir, "image")
			if err := errors.Join(os.WriteFile(key, fastBytes(3, 64), 0o600), os.WriteFile(image, nil, 0o600), os.Truncate(image, 8<<20+4096)); err != nil {
				t.Fatal(err)
			}
			run(programs.flexnbd, "plugin", "check", "./flexnbd-"+name+",key="+key, "--file", image)

			// Its packages are made as PLUGINS.md says, and what is in them is whole.
			needs(t, "dpkg-deb", "gzip")
			tools := filepath.Join(dir, "tools")
			nfpm := exec.CommandContext(t.Context(), "go", "build", "-C", "../../tools", "-o", tools+"/", "github.com/goreleaser/nfpm/v2/cmd/nfpm")
			if out, err := nfpm.CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", nfpm.Args, err, out)
			}
			if err := os.Symlink(programs.flexnbd, filepath.Join(tools, "flexnbd")); err != nil {
				t.Fatal(err)
			}
			run("env", "PATH="+tools+":"+os.Getenv("PATH"), "packaging/build.sh")
			run("sh", "-c", "dpkg-deb -x build/*.deb root && test -s build/*.rpm")
			run(programs.flexnbd, "plugin", "verify", "--plugin-dir", "root/usr/lib/flexnbd/plugins", "xts")
		})
	}
}
