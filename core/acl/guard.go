// SPDX-License-Identifier: GPL-3.0-or-later

package acl

import (
	"sync/atomic"

	"github.com/flexnbd/flexnbd/sdk/transport"
)

// Guard holds the list that is in force, and lets it be replaced while others ask.
// All methods may be called from many goroutines. Make one with [NewGuard].
//
// Whoever admits clients, and ends those that a new list no longer allows, must
// let no client slip between: one that was allowed by the old list, and is entered
// among the clients only after they were looked through. So enter a client first
// and ask Allows then; and after a Replace look through all that are entered.
type Guard struct {
	list atomic.Pointer[List] // never nil
}

// NewGuard makes a guard that begins with list. What list means when it is empty
// stays true for the lists that follow.
func NewGuard(list List) *Guard {
	g := new(Guard)
	g.list.Store(&list)
	return g
}

// Replace reads entries as [Parse] does and puts them in the place of the list in
// force; none make it empty. On error, a [*BadEntry], the old list stays. Of
// several at once, the one that returns last counts. An Allows that is called after
// Replace has returned goes by the new list.
func (g *Guard) Replace(entries []string) error {
	list, err := Parse(entries, g.list.Load().defaultDeny)
	if err != nil {
		return err
	}
	g.list.Store(&list)
	return nil
}

// Allows says whether the list in force lets peer connect, as [List.Allows].
func (g *Guard) Allows(peer transport.Peer) bool {
	return g.list.Load().Allows(peer)
}
