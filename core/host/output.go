// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"strings"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/core/logging"
)

// output is where what the plugin says goes: its log lines, with the plugin's
// name, process number and place in the source, into the host's log.
func (r *runner) output() hclog.Logger {
	return logging.Relay(r.log, r.program.Kind.String()+"-"+r.program.Name, int(r.pid.Load()))
}

// printed logs what a plugin printed instead of logging it.
type printed struct {
	runner *runner
	level  hclog.Level
}

func (p printed) Write(text []byte) (int, error) {
	for line := range strings.Lines(string(text)) {
		p.runner.output().Log(p.level, strings.TrimRight(line, "\r\n"))
	}
	return len(text), nil
}
