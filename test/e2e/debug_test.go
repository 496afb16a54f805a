// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"bufio"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// waiting starts a plugin as somebody with a debugger would, and returns what it says to
// put into flexnbd's environment.
func waiting(t *testing.T, binary string) (variable string, plugin *exec.Cmd) {
	t.Helper()
	plugin = exec.CommandContext(t.Context(), binary, "--debug")
	said, err := plugin.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := plugin.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = plugin.Process.Kill()
		_ = plugin.Wait()
	})
	lines := bufio.NewScanner(said)
	for lines.Scan() {
		if line := strings.TrimSpace(lines.Text()); strings.HasPrefix(line, "FLEXNBD_REATTACH_PLUGINS=") {
			go func() { _, _ = io.Copy(io.Discard, said) }() // ends with the plugin, which Cleanup waits for
			name, value, _ := strings.Cut(line, "=")
			return name + "=" + strings.Trim(value, "'"), plugin
		}
	}
	t.Fatalf("%s --debug does not say what to do", binary)
	return "", nil
}

// A plugin under a debugger serves as any other: on every lane, and passes sockets.
func TestPluginUnderADebugger(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		binary    string
		arguments []string
	}{
		"memory, ring":  {programs.memory, []string{"--backend", "memory", "--file", "1M"}},
		"file, lent":    {filepath.Join(programs.plugins, "flexnbd-backend-file"), []string{"--backend", "file"}},
		"tcp transport": {filepath.Join(programs.plugins, "flexnbd-transport-tcp"), []string{"--transport", "tcp"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			variable, plugin := waiting(t, c.binary)
			arguments := c.arguments
			if arguments[len(arguments)-2] != "--file" {
				arguments = append(arguments, "--file", dataFile(t, 1<<20))
			}
			s := serveIn(t, surroundings{environment: []string{variable}}, arguments...)
			if got := s.status()["backend_path"] + " " + s.status()["transport_path"]; !strings.Contains(got, "waiting") {
				t.Errorf("status says that the plugins are at %s", got)
			}
			s.write(t, []byte("looked at"), 4096)
			if got := string(s.read(t, 4096, 9)); got != "looked at" {
				t.Errorf("read %q", got)
			}
			s.stop(syscall.SIGTERM)
			if err := plugin.Wait(); err != nil {
				t.Errorf("the plugin ended with %v", err)
			}
		})
	}
}

// Without a plugin that waits there, the error says what to do.
func TestNoPluginUnderADebugger(t *testing.T) {
	t.Parallel()
	for value, says := range map[string]string{
		`{"backend-memory":"/nowhere/attach"}`: "no plugin waits at /nowhere/attach",
		`{"memory":"/nowhere"}`:                `"memory" is not backend-NAME or transport-NAME`,
		`nonsense`:                             "is not what a plugin prints with --debug",
	} {
		cmd := exec.CommandContext(t.Context(), programs.flexnbd, "serve", "--addr", "127.0.0.1", "--port", "0", "--backend", "memory", "--file", "1M")
		cmd.Env = append(cmd.Environ(), "FLEXNBD_REATTACH_PLUGINS="+value)
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), says) {
			t.Errorf("%s: %v, %s, want %q", value, err, out, says)
		}
	}
}

// FLEXNBD_DEBUG=wire shows every call, without what is in the payloads.
func TestWireIsShown(t *testing.T) {
	t.Parallel()
	s := serveIn(t, surroundings{environment: []string{"FLEXNBD_DEBUG=wire"}}, "--lane", "rpc", "--file", dataFile(t, 1<<20))
	s.write(t, []byte("secret"), 4096)
	_ = s.read(t, 8192, 512)
	s.stop(syscall.SIGTERM)
	said := s.log.String()
	for _, want := range []string{
		`plugin=backend-file call=Open asked="lanes=[\"rpc\"] location=`,
		`call=Write asked="data=(6 bytes) disk=1 offset=4096"`,
		`call=Read asked="disk=1 length=512 offset=8192" answered="data=(512 bytes)"`,
		"plugin=transport-tcp call=Listen",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("the log does not show %s", want)
		}
	}
	if strings.Contains(said, "secret") {
		t.Error("the log shows a payload")
	}
}
