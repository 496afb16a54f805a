// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"bytes"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

// What follows is for those who judge a plugin; a server has no use for it.

// Printed returns what the process has printed on its standard output after its
// handshake line: nothing, or it has broken the rules, which does no harm by then.
// Only the beginning is remembered.
func (p *Process) Printed() string {
	o := p.runner.stdout
	o.mu.Lock()
	defer o.mu.Unlock()
	_, rest, _ := bytes.Cut(o.head, []byte{'\n'})
	return string(rest)
}

// Lent returns the descriptor that the process which serves now has lent, or the one
// before it; nil if there never was one. It may be over.
func (d *Disk) Lent() *wire.Lent {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.loan
}
