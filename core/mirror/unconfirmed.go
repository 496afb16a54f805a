// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"fmt"

	"github.com/flexnbd/flexnbd/core/client"
)

// A destination that is any other NBD server, with --unconfirmed, is a disk that gets
// a copy, and nobody takes over there: who serves it, and when, is the operator's
// business, and so is what it served before. All that can be done for it is to flush
// it while the disk is held ([remote.flush]), to write down that the disk is given
// away, and to say goodbye; nobody is asked to acknowledge anything.

// unconfirmed says why a server that does not know migrations is no destination.
func unconfirmed(order *Order, c *client.Client) error {
	if order.Unconfirmed {
		return nil
	}
	return &Reason{WordsRejected, fmt.Errorf("%v, with a disk of %d bytes, is an NBD server that does not know flexnbd's migrations, so that nobody would take the disk over there; if that is meant, say --unconfirmed", order.To, c.Size())}
}
