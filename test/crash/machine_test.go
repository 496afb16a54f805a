// SPDX-License-Identifier: GPL-3.0-or-later

package crash

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/core/client"
	"github.com/flexnbd/flexnbd/core/control"
	"github.com/flexnbd/flexnbd/core/owner"
)

// machine is a disk's place: an image with its records, an address, and the process
// that serves it or waits for it, if there is one.
type machine struct {
	t     *testing.T
	name  string
	dir   string // its own, where its processes run
	image string
	addr  string   // HOST:PORT where it listens
	home  string   // where it serves a disk that has arrived; "": at addr
	allow []string // the access list

	sock    string
	reached string // its processes note here which failpoints they have come to
	log     output // what they have said

	mu      sync.Mutex
	process *process // the last one
}

// process is one start of the program.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
	killed bool // by the test
}

func newMachine(t *testing.T, name, dir, addr string) *machine {
	t.Helper()
	m := &machine{
		t: t, name: name, dir: dir, addr: addr,
		image: filepath.Join(dir, "image"), sock: filepath.Join(dir, "sock"), reached: filepath.Join(dir, "reached"),
	}
	if err := os.MkdirAll(filepath.Join(dir, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.cleanUp)
	return m
}

// launch starts the program and waits for nothing but the end of the plugins of the
// one before, as a service manager does.
func (m *machine) launch(verb string, f faults, arguments ...string) *process {
	m.t.Helper()
	if !soon(func() bool { return len(processesIn(m.dir)) == 0 }) {
		m.t.Fatalf("%s: processes %v do not end\n%s", m.name, processesIn(m.dir), m.log.String())
	}
	host, port, err := net.SplitHostPort(m.addr)
	if err != nil {
		m.t.Fatal(err)
	}
	args := []string{verb, "--addr", host, "--port", port, "--file", m.image, "--sock", m.sock}
	if verb == "listen" && m.home != "" {
		host, port, err := net.SplitHostPort(m.home)
		if err != nil {
			m.t.Fatal(err)
		}
		args = append(args, "--rebind-addr", host, "--rebind-port", port)
	}
	args = append(args, arguments...)
	p := &process{cmd: exec.Command(program, append(args, m.allow...)...), exited: make(chan struct{})}
	p.cmd.Dir = m.dir // by which its plugins are found
	p.cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+filepath.Join(m.dir, "run"),
		"GOFAIL_FAILPOINTS="+f.String(), "FLEXNBD_FAILPOINT_LOG="+m.reached)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // when the tests time out nobody cleans up
	p.cmd.Stdout, p.cmd.Stderr = &m.log, &m.log
	p.cmd.WaitDelay = time.Second
	_, _ = fmt.Fprintf(&m.log, "--- %s %s: %s %v\n", time.Now().Format("15:04:05.000"), m.name, f, p.cmd.Args[1:])
	if err := p.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // ProcessState tells
		close(p.exited)
	}()
	m.mu.Lock()
	m.process = p
	m.mu.Unlock()
	return p
}

// start starts the program and waits until its control socket answers.
func (m *machine) start(verb string, f faults, arguments ...string) {
	m.t.Helper()
	p := m.launch(verb, f, arguments...)
	if !m.answers(p) {
		m.t.Fatalf("%s: %s does not get ready: %v\n%s", m.name, verb, p.cmd.ProcessState, m.log.String())
	}
}

// answers waits until the control socket answers, or the process has ended.
func (m *machine) answers(p *process) bool {
	ready := false
	soon(func() bool {
		if p.ended() {
			return true
		}
		_, ready = m.status()
		return ready
	})
	return ready
}

func (m *machine) serve(f ...fault) { m.t.Helper(); m.start("serve", f) }

func (m *machine) listen(f ...fault) { m.t.Helper(); m.start("listen", f) }

// restart is what a service manager does for a destination, whatever has happened.
func (m *machine) restart(f ...fault) { m.t.Helper(); m.start("listen", f, "--or-serve") }

// exits starts the program, which has to end by itself with a status.
func (m *machine) exits(status int, verb string, arguments ...string) {
	m.t.Helper()
	m.launch(verb, nil, arguments...)
	m.ends(status)
}

func (p *process) ended() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// current is the last process, nil before there was one.
func (m *machine) current() *process {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.process
}

// runs says whether there is a process.
func (m *machine) runs() bool {
	p := m.current()
	return p != nil && !p.ended()
}

// ends waits for the process to end by itself.
func (m *machine) ends(status int) {
	m.t.Helper()
	p := m.await()
	if got := p.cmd.ProcessState.ExitCode(); got != status {
		m.t.Fatalf("%s has ended with %v, want status %d\n%s", m.name, p.cmd.ProcessState, status, m.log.String())
	}
}

// dies waits for the process to be killed, at a failpoint or by the test.
func (m *machine) dies() {
	m.t.Helper()
	p := m.await()
	if p.cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		m.t.Fatalf("%s was to be killed, and has ended with %v\n%s", m.name, p.cmd.ProcessState, m.log.String())
	}
}

func (m *machine) await() *process {
	m.t.Helper()
	p := m.current()
	select {
	case <-p.exited:
	case <-time.After(patience):
		m.t.Fatalf("%s does not end\n%s", m.name, m.log.String())
	}
	return p
}

func (m *machine) kill() {
	m.t.Helper()
	m.signal(syscall.SIGKILL)
	m.dies()
}

func (m *machine) signal(sig syscall.Signal) {
	m.t.Helper()
	if err := m.current().cmd.Process.Signal(sig); err != nil {
		m.t.Fatalf("%s: %v: %v", m.name, sig, err)
	}
}

// suspend stops the process from outside.
func (m *machine) suspend() {
	m.t.Helper()
	m.signal(syscall.SIGSTOP)
	m.isStopped()
}

// isStopped waits until the process is stopped, by a failpoint or from outside.
func (m *machine) isStopped() {
	m.t.Helper()
	if !soon(func() bool { return processState(m.current().cmd.Process.Pid) == 'T' }) {
		m.t.Fatalf("%s does not stop\n%s", m.name, m.log.String())
	}
}

func (m *machine) resume() { m.t.Helper(); m.signal(syscall.SIGCONT) }

// comesTo waits until the machine's processes have come to a point n times.
func (m *machine) comesTo(point string, n int) {
	m.t.Helper()
	if !soon(func() bool { return m.cameTo(point) >= n }) {
		m.t.Fatalf("%s does not come to %s for the %d. time\n%s", m.name, point, n, m.log.String())
	}
}

// cameTo is how often they have come to a point.
func (m *machine) cameTo(point string) int {
	text, err := os.ReadFile(m.reached)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		if line == point+"\n" {
			n++
		}
	}
	return n
}

// ask asks the control socket.
func (m *machine) ask(verb string, args ...string) (control.Answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return control.Call(ctx, m.sock, verb, args...)
}

// status is what the control socket says; nothing when nobody answers.
func (m *machine) status() (values map[string]string, answers bool) {
	answer, err := m.ask("status")
	if err != nil || answer.Code != 0 {
		return nil, false
	}
	pairs, err := control.ParsePairs(answer.Text)
	if err != nil {
		return nil, false
	}
	values = map[string]string{}
	for _, p := range pairs {
		values[p.Key] = p.Value
	}
	return values, true
}

// says waits until a value of the status has a text in it.
func (m *machine) says(key, text string) {
	m.t.Helper()
	var last map[string]string
	if !soon(func() bool {
		last, _ = m.status()
		value, has := last[key]
		return has && strings.Contains(value, text)
	}) {
		m.t.Fatalf("%s never says %s=%s, the last status is %v\n%s", m.name, key, text, last, m.log.String())
	}
}

// records are those beside the image.
func (m *machine) records() owner.State {
	m.t.Helper()
	state, err := owner.Inspect(owner.Disk, m.place())
	if err != nil {
		m.t.Fatal(err)
	}
	return state
}

// place is where the records are, also when the image is not there any more.
func (m *machine) place() owner.Place {
	return owner.Place{Dir: filepath.Dir(m.image), Name: filepath.Base(m.image)}
}

// hasImage says whether the image is there.
func (m *machine) hasImage() bool {
	_, err := os.Lstat(m.image)
	return err == nil
}

// address is where this machine serves a disk that has arrived.
func (m *machine) address() string {
	if m.home != "" {
		return m.home
	}
	return m.addr
}

// lets says whether a client is let in at an address.
func lets(addr string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	c, err := client.Connect(ctx, conn, client.Options{HandshakeTimeout: 2 * time.Second})
	if err != nil {
		return false
	}
	_ = c.Disconnect()
	return true
}

// stop ends the process as an operator does. It returns what was wrong with that.
func (m *machine) stop() error {
	p := m.current()
	if p == nil || p.ended() {
		return nil
	}
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("%s: %w", m.name, err)
	}
	select {
	case <-p.exited:
	case <-time.After(patience):
		return fmt.Errorf("%s does not end when it is told to", m.name)
	}
	if !p.cmd.ProcessState.Success() {
		return fmt.Errorf("%s, told to end, ends with %v", m.name, p.cmd.ProcessState)
	}
	return nil
}

// cleanUp leaves nothing behind, and shows what the processes have said when the test
// has failed.
func (m *machine) cleanUp() {
	if p := m.current(); p != nil && !p.ended() {
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
	for _, pid := range processesIn(m.dir) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	if m.t.Failed() {
		m.t.Logf("%s said:\n%s", m.name, m.log.String())
	}
}

// processesIn are those that run in a folder: a machine's process and its plugins,
// also orphaned ones. One that is about to end has no folder any more, but may hold
// its files, an image's lock among them, for a moment: it could be any machine's.
func processesIn(dir string) []int {
	var found []int
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range links {
		var pid int
		if _, err := fmt.Sscanf(link, "/proc/%d/cwd", &pid); err != nil {
			continue
		}
		cwd, err := os.Readlink(link)
		here := err == nil && (cwd == dir || strings.HasPrefix(cwd, dir+"/"))
		if (here || errors.Is(err, fs.ErrNotExist)) && !processGone(pid) {
			found = append(found, pid)
		}
	}
	return found
}

// processGone says whether nothing is left of a process, or a zombie of which every
// thread has ended.
func processGone(pid int) bool {
	if state := processState(pid); state != 0 && state != 'Z' && state != 'X' {
		return false
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return err != nil || len(threads) <= 1
}
