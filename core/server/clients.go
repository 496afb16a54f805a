// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"context"
	"fmt"
	"sync"

	"github.com/flexnbd/flexnbd/core/acl"
	"github.com/flexnbd/flexnbd/sdk/transport"
)

// clients are the connections there are. mu is a leaf lock: nothing is called
// with it held but cancel functions.
type clients struct {
	guard *acl.Guard
	most  int

	mu   sync.Mutex
	last int // the newest client's number
	open map[*connection]struct{}
}

// connection is one client's.
type connection struct {
	name string // its thread in the log
	peer transport.Peer
	ctx  context.Context
	cut  context.CancelCauseFunc // ends the connection
}

// admit enters a peer among the clients, or says why it is not served. It is
// entered before the access list is asked, so that a list which is replaced
// meanwhile either refuses it here or finds it there.
func (c *clients) admit(ctx context.Context, peer transport.Peer) (_ *connection, why string) {
	c.mu.Lock()
	if len(c.open) >= c.most {
		c.mu.Unlock()
		return nil, fmt.Sprintf("%d clients are connected already; see --max-clients", c.most)
	}
	c.last++
	cl := &connection{name: fmt.Sprintf("client-%d", c.last), peer: peer}
	cl.ctx, cl.cut = context.WithCancelCause(ctx)
	c.open[cl] = struct{}{}
	c.mu.Unlock()
	if !c.guard.Allows(peer) {
		c.leave(cl)
		return nil, "the access list does not allow it"
	}
	return cl, ""
}

// leave takes a client out again.
func (c *clients) leave(cl *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, cl)
	cl.cut(nil)
}

func (c *clients) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open)
}

// errEvicted is why a connection was cut.
var errEvicted = fmt.Errorf("the access list does not allow it any more")

// replaceACL puts another list in force and cuts those whom it does not allow.
func (c *clients) replaceACL(entries []string) error {
	if err := c.guard.Replace(entries); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for cl := range c.open {
		if !c.guard.Allows(cl.peer) {
			cl.cut(errEvicted)
		}
	}
	return nil
}
