// SPDX-License-Identifier: GPL-3.0-or-later

package compare

import (
	"fmt"
	"os/exec"
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
	return list, nil
}
