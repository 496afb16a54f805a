// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"fmt"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notify tells the service manager, if it has asked for that, see sd_notify(3): what
// the server does now, behind one of the words that it knows.
func (s *serving) notify(word, status string) {
	if _, err := daemon.SdNotify(false, word+"\nSTATUS="+status); err != nil {
		s.log.Warn("the service manager cannot be told", "status", status, "error", err)
	}
}

// ready tells that what depends on this server can be started.
func (s *serving) ready(status string, args ...any) {
	s.notify(daemon.SdNotifyReady, fmt.Sprintf(status, args...))
}
