// SPDX-License-Identifier: GPL-3.0-or-later

package launch

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/privilege"
	"github.com/flexnbd/flexnbd/core/sandbox"
)

func TestOwnProgram(t *testing.T) {
	l, dir := launcher(t, Plan{Name: "looker", Args: []string{"flexnbd", "look"}, Env: []string{"A=b"}})
	for range 2 {
		o := order1(t, l, 0, "ONE=1", "SOME_THING=x y", "SOME_DIR="+dir+"/d")
		p, s := o.looked(t)
		want := seen{
			Args: []string{"flexnbd", "look"}, Env: []string{"A=b", "ONE=1", "SOME_DIR=" + dir + "/d", "SOME_THING=x y"},
			Descriptors: []string{"0", "1", "2", "3"}, Stdin: "/dev/null",
			UID: os.Geteuid(), Group: p.Pid, Parent: os.Getpid(),
		}
		if !reflect.DeepEqual(s, want) {
			t.Errorf("it sees %+v, want %+v", s, want)
		}
		o.ends(t, p)
	}
	noChildren(t, l)
}

func TestPolicyHolds(t *testing.T) {
	l, dir := launcher(t, Plan{Name: "looker", Args: []string{"x"}, Policy: &sandbox.Policy{Paths: []sandbox.Path{{Path: "/proc", Access: sandbox.Read}}}})
	o := order1(t, l, 0, "SOME_DIR="+dir+"/d")
	p, s := o.looked(t)
	if sandbox.Found().Landlock > 0 && !strings.Contains(s.Passwd, "permission denied") {
		t.Errorf("it reads what it should not: %q", s.Passwd)
	}
	if !s.Confined {
		t.Error("it does not know that it is confined")
	}
	o.ends(t, p)
}

func TestAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can start a process as somebody else")
	}
	l, _ := launcher(t, Plan{
		Name: "looker", Args: []string{"x"}, User: &privilege.User{UID: 4711, GID: 4712},
		Capabilities: []sandbox.Capability{sandbox.NetBindService},
		Policy: &sandbox.Policy{
			Paths:        []sandbox.Path{{Path: "/proc", Access: sandbox.Read}},
			Capabilities: []sandbox.Capability{sandbox.NetBindService, sandbox.DACOverride},
		},
	})
	o := order1(t, l, 0)
	p, s := o.looked(t)
	if s.UID != 4711 || !s.Capability {
		t.Errorf("it sees %+v", s)
	}
	o.ends(t, p)
}

func TestOtherPrograms(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho script $1 $ONE\nread x <&3; exit 7\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	shell := []string{"sh", "-c", "echo shell $0 $ONE; ls /proc/self/fd | wc -l; read x <&3; exit 7", "arg"}
	l, _ := launcher(t,
		Plan{Name: "shell", Exe: "/bin/sh", Args: shell},
		Plan{Name: "opened", Exe: "/does/not/matter", Bundle: "/bin/sh", Args: shell},
		Plan{Name: "script", Exe: "/does/not/matter", Bundle: script, Args: []string{"script", "arg"}},
	)
	for plan, want := range []string{"shell arg 1\n5\n", "shell arg 1\n5\n", "script arg 1\n"} { // ls has a descriptor of its own
		o := order1(t, l, plan, "ONE=1")
		_ = o.channel.Close() // it may end
		p, text := o.running(t)
		if text != want {
			t.Errorf("plan %d says %q, want %q", plan, text, want)
		}
		o.ends(t, p)
	}
	noChildren(t, l)
}

func TestWhatCannotBeExecuted(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("some text"), 0o755); err != nil {
		t.Fatal(err)
	}
	l, _ := launcher(t,
		Plan{Name: "gone", Exe: dir + "/gone", Args: []string{"x"}},
		Plan{Name: "folder", Exe: dir, Args: []string{"x"}},
		Plan{Name: "text", Exe: text, Args: []string{"x"}},
		Plan{Name: "no bundle", Exe: "x", Bundle: dir + "/gone", Args: []string{"x"}},
		Plan{Name: "confined", Exe: "/bin/true", Args: []string{"x"}, Policy: &sandbox.Policy{}},
	)
	for plan, want := range []syscall.Errno{unix.ENOENT, unix.EACCES, unix.ENOEXEC, unix.ENOENT, unix.EPERM} {
		o := order1(t, l, plan)
		pid, err := o.PID()
		if err == nil {
			err = o.Running()
			if p, findErr := os.FindProcess(pid); findErr == nil {
				_, _ = p.Wait()
			}
		}
		if !isErrno(err, want) {
			t.Errorf("plan %d: %v, want %v", plan, err, want)
		}
	}
	noChildren(t, l)
}

// The launcher does what it was told at the beginning, and nothing else.
func TestOrdersThatAreNone(t *testing.T) {
	l, dir := launcher(t, Plan{Name: "looker", Args: []string{"x"}})
	for want, o := range map[string]struct {
		plan int
		env  []string
	}{
		"no plan 1":                   {plan: 1},
		"no plan -1":                  {plan: -1},
		`no variable "LD_PRELOAD"`:    {env: []string{"LD_PRELOAD=/x"}},
		`no variable "SOME"`:          {env: []string{"SOME=x"}},
		`no variable "ONES"`:          {env: []string{"ONES=x"}},
		`no variable "ONE"`:           {env: []string{"ONE=a\x00LD_PRELOAD=x"}},
		`no sockets in "/etc/x"`:      {env: []string{"SOME_DIR=/etc/x"}},
		`no sockets in "` + dir + `"`: {env: []string{"SOME_DIR=" + dir}},
		`/../x"`:                      {env: []string{"SOME_DIR=" + dir + "/../x"}},
		`/.."`:                        {env: []string{"SOME_DIR=" + dir + "/.."}},
		`/."`:                         {env: []string{"SOME_DIR=" + dir + "/."}},
		`//d"`:                        {env: []string{"SOME_DIR=" + dir + "//d"}},
		`/d/"`:                        {env: []string{"SOME_DIR=" + dir + "/d/"}},
	} {
		if _, err := order1(t, l, o.plan, o.env...).PID(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", o, err, want)
		}
	}
	// Without descriptors, and with rubbish: it goes on.
	for _, message := range [][]byte{[]byte(`{"plan":9}`), []byte("rubbish"), make([]byte, 1000)} {
		if _, _, err := l.line.WriteMsgUnix(message, nil, nil); err != nil {
			t.Fatal(err)
		}
		if err := l.send(message, []*os.File{os.Stdin, os.Stdin, os.Stdin, os.Stdin}); err != nil {
			t.Fatal(err)
		}
	}
	o := order1(t, l, 0)
	p, _ := o.looked(t)
	o.ends(t, p)
	noChildren(t, l)
}

func TestLauncherThatDies(t *testing.T) {
	l, _ := launcher(t, Plan{Name: "looker", Args: []string{"x"}})
	o := order1(t, l, 0)
	p, _ := o.looked(t)
	if err := unix.Kill(l.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-l.Ended()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if _, err := l.Start(Request{Stdout: null, Stderr: null, Channel: null}); err == nil || !strings.Contains(err.Error(), "start it again") {
		t.Errorf("Start: %v", err)
	}
	if err := p.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("what it had started is gone too: %v", err)
	}
	o.ends(t, p)
}

// A launcher that is told to end by whoever stops a service does not: the server needs
// it to the end.
func TestLauncherOutlivesSignalsAndEndsWithTheServer(t *testing.T) {
	l, dir := launcher(t, Plan{Name: "looker", Args: []string{"x"}})
	if err := os.WriteFile(filepath.Join(dir, "swept"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	o := order1(t, l, 0) // so it is there
	p, _ := o.looked(t)
	o.ends(t, p)
	for _, signal := range []syscall.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT} {
		if err := unix.Kill(l.PID(), signal); err != nil {
			t.Fatal(err)
		}
	}
	o = order1(t, l, 0)
	p, _ = o.looked(t)
	o.ends(t, p)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "swept")); !os.IsNotExist(err) {
		t.Errorf("the folder was not swept: %v", err)
	}
}

// A process that comes after nobody wants it any more is killed and waited for, and
// others do not wait for it.
func TestOrderThatIsAbandoned(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o700); err != nil {
		t.Fatal(err)
	}
	l, _ := launcher(t, Plan{Name: "slow", Exe: "x", Bundle: fifo, Args: []string{"x"}}, Plan{Name: "looker", Args: []string{"x"}})
	slow := order1(t, l, 0)
	o := order1(t, l, 1)
	p, _ := o.looked(t)
	o.ends(t, p)
	slow.Hurry(0)
	if _, err := slow.PID(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("PID: %v", err)
	}
	slow.Abandon(nil)
	// Now the program can be opened.
	w, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	_ = w.Close()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	noChildren(t, l)
}
