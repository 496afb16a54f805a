// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/flexnbd/flexnbd/core/bundle"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// bundled makes a bundle of a script, and returns its folder.
func bundled(t *testing.T) string {
	t.Helper()
	base, err := os.MkdirTemp("", "host-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	script := filepath.Join(base, "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho it runs\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(base, "flexnbd-backend-x")
	b, err := bundle.Build(dir, bundle.Manifest{
		Kind: "backend", Name: "x", Version: "1", ProtocolVersions: []int{wire.ProtocolVersion},
		Platforms: []string{runtime.GOOS + "/" + runtime.GOARCH},
	}, map[string]string{"flexnbd-backend-x": script})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// What is executed is the file that was compared with its checksum, whatever has its
// name by then.
func TestTheComparedFileIsExecuted(t *testing.T) {
	dir := bundled(t)
	p, err := at(wire.KindBackend, "x", dir)
	if err != nil {
		t.Fatal(err)
	}
	f, err := p.executable()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	name := filepath.Join(dir, "flexnbd-backend-x")
	if err := os.Rename(name, name+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte("#!/bin/sh\necho another\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	if got, err := os.ReadFile(path); err != nil || !strings.Contains(string(got), "it runs") {
		t.Errorf("%s leads to %q, %v", path, got, err)
	}
}

// A bundle is looked at anew at each start: between two of them it may have changed.
func TestBundleIsCheckedAtEachStart(t *testing.T) {
	for want, change := range map[string]func(dir string) error{
		"changed: flexnbd-backend-x": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "flexnbd-backend-x"), []byte("#!/bin/sh\n"), 0o755)
		},
		"SHA256SUMS can be written by its group or by everyone": func(dir string) error {
			return os.Chmod(filepath.Join(dir, "SHA256SUMS"), 0o666)
		},
		"plugin.json can be written": func(dir string) error { return os.Chmod(filepath.Join(dir, "plugin.json"), 0o666) },
		"flexnbd-backend-x can be written by its group": func(dir string) error {
			return os.Chmod(filepath.Join(dir, "flexnbd-backend-x"), 0o775)
		},
		"no such file": os.RemoveAll,
	} {
		dir := bundled(t)
		p, err := at(wire.KindBackend, "x", dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := change(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := p.executable(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
