// SPDX-License-Identifier: GPL-3.0-or-later

package privilege

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// This binary is also the process that becomes somebody else.
func TestMain(m *testing.M) {
	if os.Args[0] == "test-change" {
		if err := change(os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestLookup(t *testing.T) {
	for _, c := range []struct {
		user, group string
		want        User
		err         string
	}{
		{user: "root", want: User{Groups: []uint32{0}}},
		{user: "0", want: User{Groups: []uint32{0}}},
		{user: "root", group: "daemon", want: User{GID: 1, Groups: []uint32{0}}},
		{user: "root", group: "4711", want: User{GID: 4711, Groups: []uint32{0}}},
		{user: "4711", group: "4712", want: User{UID: 4711, GID: 4712}},
		{user: "4711", err: "its group has to be given too"},
		{user: "nosuchuser", err: `no user "nosuchuser"`},
		{user: "", err: `no user ""`},
		{user: "root", group: "nosuchgroup", err: `no group "nosuchgroup"`},
		{user: "root", group: "4294967295", err: "4294967295"},
		{user: "4294967295", group: "0", err: "no number from 0 to 4294967294"},
		{user: "-1", err: `no user "-1"`},
	} {
		u, err := Lookup(c.user, c.group)
		switch {
		case c.err != "":
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s:%s: %v, want %q", c.user, c.group, err, c.err)
			}
		case err != nil:
			t.Errorf("%s:%s: %v", c.user, c.group, err)
		case u.Name == "root" && u.Home != "/root":
			t.Errorf("%s: home %s", c.user, u.Home)
		case u.UID != c.want.UID || u.GID != c.want.GID || !slices.Equal(u.Groups, c.want.Groups):
			t.Errorf("%s:%s: %+v, want %+v", c.user, c.group, *u, c.want)
		}
	}
}

func TestBecomingAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	for at := dir; at != "/tmp" && at != "/"; at = filepath.Dir(at) { // the way there
		_ = os.Chmod(at, 0o777)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"test-change", dir}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, want := range map[string]uint32{"lowered": 4711, "raised": 0, "lowered again": 4711, "become": 4711} {
		st, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if sys := st.Sys().(*syscall.Stat_t); sys.Uid != want || want != 0 && sys.Gid != 4712 {
			t.Errorf("the file %q belongs to %d:%d", name, sys.Uid, sys.Gid)
		}
	}
}

// change goes through all the steps, on several threads, and makes a file after each.
func change(dir string) error {
	turn, done := make(chan string), make(chan error)
	go func() { // a thread that was there before
		runtime.LockOSThread()
		for name := range turn {
			done <- os.WriteFile(filepath.Join(dir, name), nil, 0o600)
		}
	}()
	file := func(name string) error {
		turn <- name
		return <-done
	}
	u := &User{UID: 4711, GID: 4712, Groups: []uint32{4713}}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"lowered", u.Lower},
		{"raised", Raise},
		{"lowered again", u.Lower},
		{"become", u.Become},
	} {
		if err := errors.Join(step.do(), file(step.name)); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	if err := Raise(); err == nil {
		return errors.New("it can become root again")
	}
	if _, err := os.ReadFile("/etc/shadow"); err == nil {
		return errors.New("it can read what only root may")
	}
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil {
		return err
	}
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		for _, want := range []string{"Uid:\t4711\t4711\t4711\t4711\n", "Gid:\t4712\t4712\t4712\t4712\n", "Groups:\t4713 \n", "CapEff:\t0000000000000000\n", "CapPrm:\t0000000000000000\n"} {
			if !strings.Contains(string(text), want) {
				return fmt.Errorf("%s does not say %q:\n%s", task, want, text)
			}
		}
	}
	return nil
}
