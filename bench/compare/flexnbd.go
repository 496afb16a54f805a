// SPDX-License-Identifier: GPL-3.0-or-later

package compare

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// lanes of flexnbd between core and backend, each a variant to measure. A new lane
// is a line here, and one in goal.go.
var lanes = []string{"file", "ring", "rpc"}

// flexnbds are the variants of flexnbd. A binary from before there was --lane has
// one only.
func flexnbds(binary string) ([]server, error) {
	help, err := exec.Command(binary, "serve", "--help").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s serve --help: %w; run 'make build' in the top folder, and bench from there", binary, err)
	}
	var list []server
	for _, lane := range lanes {
		arguments := []string{"serve", "--addr", "127.0.0.1", "--port", "PORT", "--file", "IMAGE"}
		switch {
		case strings.Contains(string(help), "--lane"):
			arguments = append(arguments, "--lane", lane)
		case lane != "rpc":
			continue
		}
		list = append(list, server{
			name: "flexnbd-" + lane, lane: lane, binary: binary,
			arguments: fixed(arguments...),
		})
	}
	return append(list, computing(binary)...), nil
}

// computing are flexnbd with backends that have no descriptor to lend: package memstore,
// and a file whose blocks have checksums. See bench/plugin.
func computing(binary string) (list []server) {
	for _, store := range []string{"memory", "checksum"} {
		for _, lane := range lanes[1:] {
			list = append(list, server{
				name: "flexnbd-" + store + "-" + lane, lane: lane, binary: binary, builds: benchPlugin, extra: true,
				arguments: fixed("serve", "--addr", "127.0.0.1", "--port", "PORT", "--file", "IMAGE",
					"--backend", "./"+benchPlugin+",store="+store, "--lane", lane),
			})
		}
	}
	return list
}

// benchPlugin is where the backends of bench/plugin are built.
const benchPlugin = "bin/bench-plugin"

// build builds what the chosen servers need besides what is installed.
func build(servers []server) error {
	if !slices.ContainsFunc(servers, func(s server) bool { return s.builds != "" }) {
		return nil
	}
	out, err := exec.Command("go", "build", "-o", benchPlugin, "./bench/plugin").CombinedOutput()
	if err != nil {
		return fmt.Errorf("building bench/plugin: %w; run bench in the top folder: %s", err, out)
	}
	return nil
}
