// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"bytes"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// The manual's examples, word for word but for the paths, the port, and the
// address to listen on.

func TestManualServingAFile(t *testing.T) {
	passwd := copyOfPasswd(t)
	port := freePort(t)
	var log output
	server := exec.Command(programs.flexnbd, "serve", "--file", passwd, "--addr", "127.0.0.1", "--port", port)
	server.Stderr = &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	t.Cleanup(func() { _ = server.Process.Kill() })
	eventually(t, "the port is open", func() bool {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	})

	if got := must(t, programs.flexnbd, "read", "--addr", "127.0.0.1", "--port", port, "--from", "0", "--size", "7"); got != "root:x:" {
		t.Errorf("read printed %q, the manual says \"root:x:\"", got)
	}

	if err := server.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("after SIGINT: %v\n%s", err, log.String())
	}
	if log.String() != "" {
		t.Errorf("a server where nothing went wrong has something to say:\n%s", log.String())
	}
}

func TestManualReadingServerStatus(t *testing.T) {
	s := serve(t, "--file", copyOfPasswd(t))
	got := must(t, programs.flexnbd, "status", "--sock", s.sock)
	if !strings.HasPrefix(got, "is_mirroring=false has_control=true") {
		t.Errorf("status printed %q", got)
	}
	values := pairs(t, got) // one line, newline-terminated, no space in a value
	for key, want := range map[string]string{
		"pid":             strconv.Itoa(s.cmd.Process.Pid),
		"size":            strconv.FormatInt(fileSize(t, "/etc/passwd"), 10),
		"num_clients":     "0",
		"clients_allowed": "true",
		"backend":         "file",
		"backend_path":    "builtin",
		"transport":       "tcp",
		"transport_path":  "builtin",
	} {
		if values[key] != want {
			t.Errorf("status says %s=%s, want %s", key, values[key], want)
		}
	}
}

func copyOfPasswd(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(text, []byte("root:x:")) {
		lacks(t, "/etc/passwd does not begin as the manual's does")
	}
	path := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	stat, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return stat.Size()
}

// freePort finds a port on 127.0.0.1 for the one test that cannot ask for port 0:
// without a control socket nobody says which it became. It is below those that
// the kernel gives out by itself, so that nothing else takes it meanwhile.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		port := strconv.Itoa(20000 + rand.IntN(12000))
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("no port on 127.0.0.1 is free")
	return ""
}
