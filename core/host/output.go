// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"strings"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/core/logging"
)

// output is where what the plugin says goes: its log lines, with the plugin's
// name, process number and place in the source, into the host's log.
func (p *Process) output() hclog.Logger {
	return logging.Relay(p.log, p.program.Kind.String()+"-"+p.program.Name, p.PID())
}

// relay is the logger for go-plugin. It silences what go-plugin says about its
// own doings and passes on what the plugin logs, which go-plugin gives to a
// logger that it calls Named on once the process runs.
type relay struct {
	hclog.Logger
	process *Process
}

// Named returns the logger for the plugin's lines.
func (r relay) Named(string) hclog.Logger { return r.process.output() }

// printed logs what a plugin printed instead of logging it.
type printed struct {
	process *Process
	level   hclog.Level
}

func (p printed) Write(text []byte) (int, error) {
	for line := range strings.Lines(string(text)) {
		p.process.output().Log(p.level, strings.TrimRight(line, "\r\n"))
	}
	return len(text), nil
}
