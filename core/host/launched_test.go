// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flexnbd/flexnbd/core/logging"
	"github.com/flexnbd/flexnbd/core/sandbox"
	"github.com/flexnbd/flexnbd/core/sandbox/sandboxtest"
	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// launching makes a host with these plans that is closed at the end of the test.
func launching(t *testing.T, plans ...Plan) (*Host, *logBuffer) {
	t.Helper()
	log := &logBuffer{}
	h, err := NewLaunching(logging.New(log, logging.Verbose), Launching{Plans: plans})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(h.Dir()); err == nil {
			t.Errorf("%s is left", h.Dir())
		}
		if t.Failed() {
			t.Logf("log:\n%s", log)
		}
	})
	return h, log
}

// stockBackend is what a program has to be for the policy of a stock backend.
func stockBackend(role string) Program {
	p := self(role)
	p.needs = &Needs{Disk: true}
	return p
}

// victim makes an image, and another one beside it.
func victim(t *testing.T) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "a.img")
	for _, path := range []string{image, anotherImage(image)} {
		if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return image
}

// order has the disk's backend make attempts, and returns what it says of them.
func order(t *testing.T, d *Disk, attempts ...string) string {
	t.Helper()
	p := make([]byte, block)
	copy(p, strings.Join(attempts, "\n"))
	if err := d.WriteAt(t.Context(), p, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := d.ReadAt(t.Context(), p, d.Info().Size-block); err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimRight(p, "\x00"))
}

// A backend that was taken over, in the sandbox of the stock ones: docs/security.md
// shows what becomes of it.
func TestCompromisedBackend(t *testing.T) {
	sandboxtest.Need(t, sandbox.Found().Landlock, sandbox.Found().Seccomp)
	image := victim(t)
	other, dir := anotherImage(image), filepath.Dir(image)
	program := stockBackend("test-hostile")
	h, log := launching(t, Plan{Program: program, Policy: program.Policy(Work{Disk: image})})
	d, err := h.OpenDisk(t.Context(), program, wire.Disk{Location: image})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}()
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	me := fmt.Sprint(os.Getpid())

	said := order(t, d,
		"read IMAGE", "truncate IMAGE", "read "+other, "write "+other, "remove "+other, "list "+dir, "create "+dir+"/new", "linkTo IMAGE",
		"chmod "+other, "read /etc/passwd", "read /etc/shadow", "create /tmp/flexnbd-hostile", "list /proc",
		"start /bin/true", "exec /bin/true", "connect "+server.Addr().String(), "listen 127.0.0.1:0", "dgram 2",
		"signal "+me, "ptrace "+me, "memoryOf "+me, "descriptors 1024", "memory 4294967296")
	want := strings.NewReplacer("OTHER", other, "DIR", dir, "SERVER", server.Addr().String(), "PID", me).Replace(`read IMAGE: done
truncate IMAGE: permission denied
read OTHER: permission denied
write OTHER: permission denied
remove OTHER: permission denied
list DIR: permission denied
create DIR/new: permission denied
linkTo IMAGE: permission denied
chmod OTHER: operation not permitted
read /etc/passwd: permission denied
read /etc/shadow: permission denied
create /tmp/flexnbd-hostile: permission denied
list /proc: permission denied
start /bin/true: permission denied
exec /bin/true: operation not permitted
connect SERVER: operation not permitted
listen 127.0.0.1:0: operation not permitted
dgram 2: operation not permitted
signal PID: operation not permitted
ptrace PID: operation not permitted
memoryOf PID: permission denied
descriptors 1024: too many open files
memory 4294967296: cannot allocate memory
`)
	if said != want {
		t.Errorf("it says\n%s\nwant\n%s", said, want)
	}

	// What it can do is die. It is replaced, within bounds, and the memory of the machine
	// is none the worse.
	p := make([]byte, block)
	copy(p, fmt.Sprint("heap ", 4<<30))
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() { gone <- d.WriteAt(ctx, p, 0, 0) }()
	await(t, "the backend is replaced", func() bool { return d.Restarts() > 0 })
	cancel()
	if err := <-gone; err == nil {
		t.Error("it has got all the memory that it wanted")
	}
	if !strings.Contains(log.String(), "out of memory") && !strings.Contains(log.String(), "failed to allocate") { // of the race detector
		t.Errorf("the log does not say why")
	}
}

// A transport that was taken over.
func TestCompromisedTransport(t *testing.T) {
	sandboxtest.Need(t, sandbox.Found().Landlock, sandbox.Found().Seccomp)
	image := victim(t)
	program := self("test-intruder")
	program.Kind, program.needs = wire.KindTransport, &Needs{Internet: true}
	h, _ := launching(t, Plan{Program: program, Policy: program.Policy(Work{})})
	d := h.Dialler(program)
	defer d.Close()
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	attempts := []string{
		"read " + image, "write " + image, "read /etc/passwd", "list " + filepath.Dir(image), "start /bin/true",
		"chmod " + image, "signal " + fmt.Sprint(os.Getpid()), "connect " + server.Addr().String(), "read /etc/hosts",
	}
	_, err = d.Dial(t.Context(), transport.Address{Addr: strings.Join(attempts, "\n")}, transport.Address{})
	want := strings.NewReplacer("IMAGE", image, "DIR", filepath.Dir(image), "PID", fmt.Sprint(os.Getpid()), "SERVER", server.Addr().String()).Replace(`read IMAGE: permission denied
write IMAGE: permission denied
read /etc/passwd: permission denied
list DIR: permission denied
start /bin/true: permission denied
chmod IMAGE: operation not permitted
signal PID: operation not permitted
connect SERVER: done
read /etc/hosts: permission denied
`)
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("it says\n%v\nwant\n%s", err, want)
	}
}

// A confined backend that dies is replaced by one in the same sandbox, which goes on
// with the same image even where that is called otherwise by now.
func TestRestartInTheSandbox(t *testing.T) {
	sandboxtest.Need(t, sandbox.Found().Landlock, sandbox.Found().Seccomp)
	image := victim(t)
	program := stockBackend("test-hostile")
	h, _ := launching(t, Plan{Program: program, Policy: program.Policy(Work{Disk: image})})
	d, err := h.OpenDisk(t.Context(), program, wire.Disk{Location: image})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := os.Rename(image, image+".moved"); err != nil {
		t.Fatal(err)
	}
	if err := d.Process().stopNow(); err != nil {
		t.Fatal(err)
	}
	await(t, "it is replaced", func() bool { return d.Restarts() == 1 && d.State() == "serving" })
	if said := order(t, d, "read "+anotherImage(image), "start /bin/true"); strings.Contains(said, sandboxtest.Done) {
		t.Errorf("it says %s", said)
	}
}

// What may be started was settled at the beginning.
func TestLauncherStartsWhatWasPlanned(t *testing.T) {
	h, _ := launching(t, Plan{Program: self("test-memory")})
	if _, err := h.Start(t.Context(), self("test-talker")); err == nil || !strings.Contains(err.Error(), "no plan") {
		t.Errorf("Start: %v", err)
	}
	p, err := h.Start(t.Context(), self("test-memory"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// Starts fail through a launcher as they do without, in the same words.
func TestFailedStartThroughALauncher(t *testing.T) {
	dir := folder(t)
	program := func(name, text string) Program {
		path := put(t, filepath.Join(dir, name), text)
		p := shell("")
		p.Name, p.Path, p.exe, p.args = name, path, path, []string{path}
		return p
	}
	gone := program("gone", "")
	if err := os.Remove(gone.exe); err != nil {
		t.Fatal(err)
	}
	ends := shell("echo last words >&2; exit 3")
	for _, c := range []struct {
		program Program
		want    []string
	}{
		{gone, []string{"no such file", "is not there"}},
		{program("text", "some text\n"), []string{"exec format error", "no program for this machine"}},
		{program("script", "#!/does/not/exist\n"), []string{"no such file", "the interpreter"}},
		{ends, []string{"exit status 3", `"last words"`}},
	} {
		t.Run(c.program.Name, func(t *testing.T) {
			h, _ := launching(t, Plan{Program: c.program})
			before := descriptors(t)
			_, err := h.Start(t.Context(), c.program)
			for _, want := range append(c.want, "backend plugin "+c.program.Name+" ("+c.program.Path+"): ") {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%v does not say %q", err, want)
				}
			}
			await(t, "its descriptors are closed", func() bool { return descriptors(t) <= before })
			if left := children(t); len(left) != 1 { // the launcher
				t.Errorf("processes %v are left", left)
			}
		})
	}
}
