// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"fmt"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// Handshake is the kind of handshake that a session begins with. The server
// speaks first, so one port can have only one kind.
type Handshake int

// The kinds.
const (
	// Newstyle is the fixed newstyle negotiation, which every client of today
	// speaks.
	Newstyle Handshake = iota
	// Oldstyle is for clients that know nothing else, as those of flexnbd 0.x.
	Oldstyle
)

// oldstyle sends the greeting that is all there is to the oldstyle handshake. The
// client answers with its first request, or hangs up.
//
// The greeting can't say that an export is read-only, since nobody would look for
// that flag: the client learns of it when it writes.
func (h *handshake) oldstyle() (*agreement, error) {
	if m := h.config.Migration; m != nil {
		sender, err := m.Oldstyle(h.ctx, h.link)
		if err != nil {
			return nil, err
		}
		if sender != nil {
			h.adopt(sender, nbd.MigrationSend)
		}
	}
	if why := h.crowded(); why != "" {
		return nil, fmt.Errorf("refused: %s", why)
	}
	agreed := &agreement{flags: nbd.OldstyleFlags, sender: h.link.sender, oldstyle: true}
	_, err := h.out.Write(nbd.AppendOldstyleGreeting(nil, uint64(h.config.Export.Size()), agreed.flags))
	return agreed, err
}
