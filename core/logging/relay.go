// SPDX-License-Identifier: GPL-3.0-or-later

package logging

import (
	"github.com/hashicorp/go-hclog"
)

// Relay returns a logger for lines about or from a plugin. Their THREAD is
// name, whatever Named adds later: go-plugin adds the plugin's file name. Their
// PID is pid, or this process when pid is 0; a line that carries [PluginPID]
// has that one. The source position is that of the line's "@caller", which
// hclog puts in when a plugin asks for it with IncludeLocation, else that of
// the code in this process that speaks; "timestamp" and "@module" are left out.
//
// So go-plugin gets Relay(l, name, 0), because what it says itself is said by
// this process, and [RelayStderr] gets Relay(l, name, pid).
//
// A logger that New did not make is given the name and the pid as a pair.
func Relay(l hclog.Logger, name string, pid int) hclog.Logger {
	own, ok := l.(*logger)
	if !ok {
		l = l.ResetNamed(name)
		if pid != 0 {
			l = l.With(PluginPID, pid)
		}
		return l
	}
	relay := *own
	relay.name = name
	relay.relayed = true
	if pid != 0 {
		relay.pid = pid
	}
	return &relay
}
