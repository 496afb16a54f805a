// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"os"
	"strings"
)

// passedOn are the variables that a plugin inherits. Everything else that the
// host was started with, credentials among it, is the host's own affair.
var passedOn = map[string]bool{
	"PATH": true, "HOME": true, "USER": true, "LOGNAME": true, "TMPDIR": true,
	"LANG": true, "TZ": true, "TZDIR": true,
	"SSL_CERT_FILE": true, "SSL_CERT_DIR": true,
	"GOTRACEBACK": true, "GODEBUG": true, "GORACE": true, "GOMAXPROCS": true, "GOMEMLIMIT": true, "GOCOVERDIR": true,
}

// environment is the part of the host's environment that plugins may see.
func environment() []string {
	var env []string
	for _, pair := range os.Environ() {
		key, _, _ := strings.Cut(pair, "=")
		if passedOn[key] || strings.HasPrefix(key, "LC_") {
			env = append(env, pair)
		}
	}
	return env
}
