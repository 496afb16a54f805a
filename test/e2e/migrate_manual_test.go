// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/test/journal"
)

// The manual's commands, word for word but for the folder and the ports.
func TestManualMigrating(t *testing.T) {
	t.Parallel()
	m := newManual(t)
	m.do(`dd if=/dev/urandom of=DIR/data bs=1M count=1`)
	m.do(`truncate -s 1M DIR/data.copy`)
	source := m.background(`flexnbd serve --file DIR/data --addr 0.0.0.0 --port 4778 --sock DIR/flex-source.sock`)
	destination := m.background(`flexnbd listen --file DIR/data.copy --addr 0.0.0.0 --port 4779 --sock DIR/flex-dest.sock`)
	m.socket("flex-source.sock")
	m.socket("flex-dest.sock")

	m.says(`flexnbd status --sock DIR/flex-source.sock`, "is_mirroring=false has_control=true ")
	m.says(`flexnbd status --sock DIR/flex-dest.sock`, "is_mirroring=false has_control=false ")
	if !exists(t, m.path("data.copy.INCOMPLETE")) {
		t.Error("there is no data.copy.INCOMPLETE")
	}

	m.says(`flexnbd mirror --addr 127.0.0.1 --port 4779 --sock DIR/flex-source.sock`, "Migration started\n")
	source.ends(0)
	eventually(t, "the destination has control", func() bool {
		return strings.HasPrefix(m.do(`flexnbd status --sock DIR/flex-dest.sock`), "is_mirroring=false has_control=true ")
	})
	if exists(t, m.path("data.copy.INCOMPLETE")) {
		t.Error("data.copy.INCOMPLETE is still there")
	}
	wantSame(t, m.path("data"), m.path("data.copy"))
	if err := destination.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	destination.ends(0)
	for _, p := range []*manualServer{source, destination} {
		if p.log.String() != "" {
			t.Errorf("nothing went wrong, and yet %v has something to say:\n%s", p.cmd.Args, p.log.String())
		}
	}
}

// manual runs commands as they are printed.
type manual struct {
	t       *testing.T
	replace *strings.Replacer
	dir     string
}

func newManual(t *testing.T) *manual {
	dir := shortDir(t)
	return &manual{t, strings.NewReplacer("DIR", dir, " 4778", " "+freePort(t), " 4779", " "+freePort(t), "flexnbd ", programs.flexnbd+" "), dir}
}

func (m *manual) path(name string) string { return filepath.Join(m.dir, name) }

func (m *manual) words(line string) []string { return strings.Fields(m.replace.Replace(line)) }

func (m *manual) do(line string) string {
	m.t.Helper()
	words := m.words(line)
	return must(m.t, words[0], words[1:]...)
}

// says runs a command whose output has to begin as the manual says.
func (m *manual) says(line, want string) {
	m.t.Helper()
	if got := m.do(line); !strings.HasPrefix(got, want) {
		m.t.Errorf("%s: printed %q, the manual says %q", line, got, want)
	}
}

type manualServer struct {
	t     *testing.T
	cmd   *exec.Cmd
	log   output
	ended chan struct{}
}

func (m *manual) background(line string) *manualServer {
	m.t.Helper()
	words := m.words(line)
	p := &manualServer{t: m.t, cmd: exec.Command(words[0], words[1:]...), ended: make(chan struct{})}
	p.cmd.Stderr = &p.log
	p.cmd.WaitDelay = time.Second
	if err := p.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // ProcessState tells
		close(p.ended)
	}()
	m.t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
	})
	return p
}

func (m *manual) socket(name string) {
	m.t.Helper()
	eventually(m.t, name+" answers", func() bool {
		conn, err := net.Dial("unix", m.path(name))
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	})
}

func (p *manualServer) ends(status int) {
	p.t.Helper()
	select {
	case <-p.ended:
		if got := p.cmd.ProcessState.ExitCode(); got != status {
			p.t.Errorf("%v: exit status %d, want %d\n%s", p.cmd.Args, got, status, p.log.String())
		}
	case <-time.After(stopTime):
		p.t.Fatalf("%v does not end\n%s", p.cmd.Args, p.log.String())
	}
}

// Once the disk is there, the server moves to another address and port.
func TestMigrateRebindsToAnotherAddress(t *testing.T) {
	t.Parallel()
	data, copied := dataFile(t, 1<<20), sparseFile(t, 1<<20)
	home := net.JoinHostPort("127.0.0.2", freePort(t))
	source := serve(t, "--file", data)
	destination := listen(t, "--file", copied, "--rebind-addr", "127.0.0.2", "--rebind-port", portOf(t, home))
	arrival := destination.addr
	source.mirror(arrival)
	source.departs()
	destination.arrives()
	if destination.addr != home {
		t.Errorf("the disk is served at %s, want %s", destination.addr, home)
	}
	if conn, err := net.Dial("tcp", arrival); err == nil {
		_ = conn.Close()
		t.Errorf("where the disk arrived, at %s, somebody still listens", arrival)
	}
	wantSame(t, data, copied)
	if got, want := destination.read(t, 0, 100), source.file(t, data)[:100]; string(got) != string(want) {
		t.Error("read is not what was migrated")
	}
	source.silentLog()
	destination.silentLog()
}

// file is what an image holds.
func (s *server) file(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// With one of the two options the other stays as it is.
func TestMigrateRebindsAddressAndPortAlone(t *testing.T) {
	t.Parallel()
	for name, rebind := range map[string]struct{ option, value, addr, port string }{
		"address": {"-L", "127.0.0.2", "127.0.0.2", ""},
		"port":    {"-P", freePort(t), "127.0.0.1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			source := serve(t, "--file", dataFile(t, 8192))
			destination := listenIn(t, atPort("127.0.0.1", freePort(t)), "--file", sparseFile(t, 8192), rebind.option, rebind.value)
			port := portOf(t, destination.addr)
			if rebind.option == "-P" {
				port = rebind.value
			}
			source.mirror(destination.addr)
			source.departs()
			destination.arrives()
			if want := net.JoinHostPort(rebind.addr, port); destination.addr != want {
				t.Errorf("the disk is served at %s, want %s", destination.addr, want)
			}
		})
	}
}

// The new server takes the old one's address and port. Who is connected through
// nbdkit's retry filter sees no error: its requests are repeated at the new server.
func TestMigrateToTheSourcesOwnAddressUnnoticed(t *testing.T) {
	t.Parallel()
	needs(t, "nbdkit")
	const size = 16 << 20
	disk := journal.NewDisk(size)
	data, copied := filledFile(t, disk, size/2), sparseFile(t, size)
	source := serve(t, "--file", data)
	destination := listen(t, "--file", copied, "--rebind-port", portOf(t, source.addr))
	proxy := nbdkit(t, "--filter=retry", "nbd", source.uri(), "retry-delay=1", "retry-exponential=no", "retries=30")
	address := strings.TrimPrefix(proxy, "nbd+unix:///?socket=")
	load := startLoad(t, disk, journal.Options{Servers: []journal.Server{journal.Unix(address)}, Seed: 1})
	load.more(200)

	home := source.addr
	source.mirror(destination.addr)
	source.departs()
	destination.arrives()
	if destination.addr != home {
		t.Errorf("the disk is served at %s, want %s", destination.addr, home)
	}
	load.more(200)
	load.stop()
	if broken := load.Breaks(); len(broken) > 0 {
		t.Errorf("the client has noticed: %v", broken)
	}
	checkFile(t, disk, copied)
}
