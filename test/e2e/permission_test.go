// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// nobody is a user without rights.
const nobody = 65534

// ownFile makes a small file that belongs to uid and that only its owner may use,
// in a folder that everybody may enter.
func ownFile(t *testing.T, uid int) string {
	t.Helper()
	dir := shortDir(t)
	path := filepath.Join(dir, "disk")
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, uid, -1); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestImageWithoutPermissionIsExplained(t *testing.T) {
	disk := ownFile(t, os.Geteuid())
	cmd := exec.Command(programs.flexnbd, "serve", "--addr", "127.0.0.1", "--port", "0", "--file", disk)
	cmd.Dir = "/"
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	} else if err := os.Chmod(disk, 0); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	_ = cmd.Run()
	if status := cmd.ProcessState.ExitCode(); status != 1 {
		t.Errorf("exit status %d, want 1", status)
	}
	for _, want := range []string{"image " + disk, "permission denied"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("the message does not have %q: %s", want, said.String())
		}
	}
}

func TestOrdinaryUserServes(t *testing.T) {
	needsRoot(t, "become another user")
	s := serveIn(t, surroundings{uid: nobody}, "--file", ownFile(t, nobody))
	want := randomBytes(1, 100)
	s.write(t, want, 11)
	if got := s.read(t, 11, 100); !bytes.Equal(got, want) {
		t.Error("read is not what was written")
	}
}

// Root runs no plugin that another user could have written.
func TestPluginOfAnotherUserIsRefused(t *testing.T) {
	needsRoot(t, "give files away")
	plugin := ownFile(t, nobody)
	if err := os.Chmod(plugin, 0o755); err != nil {
		t.Fatal(err)
	}
	r := run(t, nil, programs.flexnbd, "serve", "--addr", "127.0.0.1", "--port", "0", "--file", "1", "--backend", plugin)
	if r.status != 2 || !strings.Contains(r.stderr, "refused: "+plugin+" belongs to user 65534") {
		t.Errorf("exit status %d: %s", r.status, r.stderr)
	}
}
