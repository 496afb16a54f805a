// SPDX-License-Identifier: Apache-2.0

package socketfile

import (
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestGive(t *testing.T) {
	path := socketPath(t)
	l := listen(t, path)
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 {
		uid, gid = 4711, 4712
	}
	for _, c := range []struct {
		uid, gid int
		mode     fs.FileMode
	}{{-1, -1, 0o640}, {uid, -1, 0o660}, {-1, gid, 0o600}, {uid, gid, 0o666}} {
		if err := l.Give(c.uid, c.gid, c.mode); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		sys := st.Sys().(*syscall.Stat_t)
		if st.Mode().Perm() != c.mode || c.uid >= 0 && sys.Uid != uint32(c.uid) || c.gid >= 0 && sys.Gid != uint32(c.gid) {
			t.Errorf("%+v: mode %v of %d:%d", c, st.Mode(), sys.Uid, sys.Gid)
		}
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("Close does not know the socket any more")
	}
}

// What somebody has put in the place of the socket stays as it is.
func TestGiveLeavesOthersAlone(t *testing.T) {
	path := socketPath(t)
	l := listen(t, path)
	if err := os.Rename(path, path+".moved"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".other", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path+".other", path); err != nil {
		t.Fatal(err)
	}
	if err := l.Give(-1, -1, 0o777); err == nil || !strings.Contains(err.Error(), "something else") {
		t.Errorf("Give: %v", err)
	}
	if st, err := os.Stat(path + ".other"); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the other file has mode %v, %v", st.Mode(), err)
	}
	if err := l.Give(-1, -1, fs.ModeSetuid|0o777); err == nil {
		t.Error("a mode with more than permissions is taken")
	}
}

func TestPathThatIsLeftForSomebodyElse(t *testing.T) {
	path := socketPath(t)
	l := listen(t, path)
	l.LeavePath()
	if err := RemoveStale(t.Context(), path); err == nil {
		t.Error("a socket that is open is removed")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("it is gone: %v", err)
	}
	for range 2 { // there, then not there
		if err := RemoveStale(t.Context(), path); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); err == nil {
			t.Error("it is still there")
		}
	}
	// Nothing else is removed, and no socket that another process has made since.
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := RemoveStale(t.Context(), path); err == nil {
		t.Error("a file is taken for a socket")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	again, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := RemoveStale(t.Context(), path); err == nil {
		t.Error("another server's socket is removed")
	}
}
