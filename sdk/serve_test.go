// SPDX-License-Identifier: Apache-2.0

package sdk

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/option"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

func openMemory(context.Context, Disk) (store.Store, error) { return memstore.New(0), nil }

// plugins are what this binary runs as when its first argument names one. How
// a plugin gets on with a host is tested in core/host.
var plugins = map[string]func(){
	"good": func() { ServeBackend(Backend{Name: "mine", Version: "1.2", Open: openMemory}) },
	"optional": func() {
		ServeBackend(Backend{
			Name: "mine", Version: "1.2", Open: openMemory, About: About{Vendor: "Me & You", License: "MIT"},
			Options: option.Set{{Name: "block", Type: option.Size, Default: "4K", Min: 512, Max: 64 << 10, Help: "how much"}},
		})
	},
	"bad option":   func() { ServeBackend(Backend{Name: "mine", Open: openMemory, Options: option.Set{{Name: "A"}}}) },
	"bad name":     func() { ServeBackend(Backend{Name: "Mine!", Open: openMemory}) },
	"bad version":  func() { ServeBackend(Backend{Name: "mine", Version: "1\n2", Open: openMemory}) },
	"no open":      func() { ServeBackend(Backend{Name: "mine"}) },
	"no transport": func() { ServeTransport(Transport{Name: "mine"}) },
}

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && plugins[os.Args[1]] != nil {
		serve := plugins[os.Args[1]]
		os.Args = append(os.Args[:1], strings.Fields(os.Getenv("ARGS"))...)
		serve()
		os.Exit(99) // Serve... must not return
	}
	goleak.VerifyTestMain(m)
}

// run runs this binary as a plugin and returns what it wrote and its status.
func run(t *testing.T, plugin string, env ...string) (stdout, stderr string, status int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, plugin)
	cmd.Env = append(os.Environ(), env...)
	var out, err2 strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &err2
	var exit *exec.ExitError
	switch err := cmd.Run(); {
	case errors.As(err, &exit):
		return out.String(), err2.String(), exit.ExitCode()
	case err != nil:
		t.Fatal(err)
	}
	return out.String(), err2.String(), 0
}

func TestPluginRunByHandSaysWhatItIs(t *testing.T) {
	stdout, stderr, status := run(t, "good")
	if status != 1 || stdout != "" {
		t.Errorf("status %d, standard output %q", status, stdout)
	}
	self, _ := os.Executable()
	for _, want := range []string{`backend plugin "mine"`, "version 1.2", "flexnbd starts it", "--backend " + self} {
		if !strings.Contains(stderr, want) {
			t.Errorf("%q does not say %q", stderr, want)
		}
	}
	if strings.Count(stderr, "\n") != 1 {
		t.Errorf("more than one line: %q", stderr)
	}
}

func TestPluginRunByHandAnswersPeople(t *testing.T) {
	stdout, _, status := run(t, "good", "ARGS=--version")
	if want := "flexnbd-backend-mine 1.2 (SDK " + Version + ")\n"; status != 0 || stdout != want {
		t.Errorf("--version: status %d, %q, want %q", status, stdout, want)
	}
	stdout, _, status = run(t, "optional", "ARGS=--describe")
	var facts map[string]any
	if err := json.Unmarshal([]byte(stdout), &facts); err != nil || status != 0 {
		t.Fatalf("--describe: status %d, %v: %s", status, err, stdout)
	}
	want := map[string]any{
		"schema": 1.0, "kind": "backend", "name": "mine", "version": "1.2", "vendor": "Me & You", "license": "MIT",
		"protocol_versions": []any{1.0}, "sdk_version": Version, "platforms": []any{runtime.GOOS + "/" + runtime.GOARCH},
		"options": []any{map[string]any{"name": "block", "type": "size", "default": "4K", "min": 512.0, "max": 65536.0, "help": "how much"}},
	}
	if !reflect.DeepEqual(facts, want) {
		t.Errorf("--describe says %v, want %v", facts, want)
	}
	for _, c := range []struct{ arguments, says string }{
		{"--nonsense", "there are --version, --describe and --debug"},
		{"more", `unexpected argument "more"`},
		{"--help", "flexnbd starts it by itself"},
	} {
		if stdout, stderr, status := run(t, "good", "ARGS="+c.arguments); status != 1 || stdout != "" || !strings.Contains(stderr, c.says) {
			t.Errorf("%s: status %d, %q, %q, want %q", c.arguments, status, stdout, stderr, c.says)
		}
	}
}

func TestPluginThatCannotBeServedSaysWhy(t *testing.T) {
	cookie := wire.Handshake.MagicCookieKey + "=" + wire.Handshake.MagicCookieValue
	for plugin, want := range map[string]string{
		"bad name":     `describes itself wrongly: name "Mine!"`,
		"bad option":   `describes itself wrongly: option name "A"`,
		"bad version":  `describes itself wrongly: version "1\n2"`,
		"no open":      "set Backend.Open",
		"no transport": "set Backend.Open or Transport.Transport",
	} {
		for _, env := range []string{"X=", cookie} { // by hand, and by a host
			stdout, stderr, status := run(t, plugin, env)
			if status != 1 || stdout != "" || !strings.Contains(stderr, want) {
				t.Errorf("%s: status %d, %q, %q; want an error about %q", plugin, status, stdout, stderr, want)
			}
		}
	}
}

func TestWrongDescriptorChannelIsNamed(t *testing.T) {
	cookie := wire.Handshake.MagicCookieKey + "=" + wire.Handshake.MagicCookieValue
	for _, value := range []string{"x", "0", "2", "-1", "987"} {
		_, stderr, status := run(t, "good", cookie, wire.EnvDescriptorChannel+"="+value)
		if status != 1 || !strings.Contains(strings.ReplaceAll(stderr, "-", " "), "descriptor") {
			t.Errorf("channel %q: status %d, %q", value, status, stderr)
		}
	}
}

func TestLoggerTakesTheHostsLevel(t *testing.T) {
	for value, want := range map[string]string{"": "warn", "nonsense": "warn", "info": "info", "error": "error", "off": "off"} {
		t.Setenv(wire.EnvLogLevel, value)
		if got := Logger().GetLevel().String(); got != want {
			t.Errorf("level %q gives %q, want %q", value, got, want)
		}
	}
}
