// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"bytes"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/fdstore/looptest"
)

// The stock plugins as binaries of their own, found in the places where plugins
// are looked for, do what those inside flexnbd do.
func TestSeparatePluginsServe(t *testing.T) {
	needs(t, "nbdinfo", "nbdcopy")
	image := checkingImage{size: 4<<20 + 3, seed: 4}
	for name, found := range map[string]struct {
		environment []string
		arguments   []string
	}{
		"--plugin-dir":        {nil, []string{"--plugin-dir", programs.plugins}},
		"FLEXNBD_PLUGIN_PATH": {[]string{"FLEXNBD_PLUGIN_PATH=/nonexistent:" + programs.plugins}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			disk := sparseFile(t, image.size)
			s := serveIn(t, surroundings{environment: found.environment}, append(found.arguments, "--file", disk)...)
			status := s.status()
			if got, want := status["backend_path"], filepath.Join(programs.plugins, "flexnbd-backend-file"); got != want {
				t.Errorf("the backend is %s, want %s", got, want)
			}
			if got, want := status["transport_path"], filepath.Join(programs.plugins, "flexnbd-transport-tcp"); got != want {
				t.Errorf("the transport is %s, want %s", got, want)
			}
			original := image.create(t)
			must(t, "nbdcopy", original, s.uri())
			image.checkFile(t, disk)
			image.checkServed(t, s)
			sameSpace(t, original, disk)
		})
	}
}

// They are replaced like those inside.
func TestSeparatePluginsForDevicesAndUnixSockets(t *testing.T) {
	loop := looptest.New(t, looptest.Options{Size: 1 << 20})
	s := serveIn(t, surroundings{network: "unix"}, "--plugin-dir", programs.plugins, "--file", loop.Path)
	status := s.status()
	for key, want := range map[string]string{"backend_path": "flexnbd-backend-blockdev", "transport_path": "flexnbd-transport-unix"} {
		if got := status[key]; got != filepath.Join(programs.plugins, want) {
			t.Errorf("%s=%s, want %s", key, got, want)
		}
	}
	want := randomBytes(1, 1<<20)
	s.write(t, want, 0)
	s.replaced("backend", unix.SIGKILL)
	s.replaced("transport", unix.SIGKILL)
	if got := s.read(t, 0, len(want)); !bytes.Equal(got, want) {
		t.Error("read is not what was written")
	}
}

func TestBuiltinForcesThePluginInside(t *testing.T) {
	s := serve(t, "--plugin-dir", programs.plugins, "--backend", "builtin:file", "--transport", "builtin:tcp", "--file", sparseFile(t, 4096))
	if status := s.status(); status["backend_path"] != "builtin" || status["transport_path"] != "builtin" {
		t.Errorf("status: %v", status)
	}
}
