// SPDX-License-Identifier: GPL-3.0-or-later

package crashfs

import (
	"maps"
	"slices"
)

// node is a file or a directory: what the kernel shows, and what the disk holds.
type node struct {
	dir bool

	// A file's.
	data    []byte // what is read
	durable []byte // what the last fsync left on the disk
	dirty   bool   // data was written since

	// A directory's.
	entries map[string]*node // what is seen
	names   map[string]*node // what is on the disk
	changes []change         // what was done since, in order

	// spoiled: an fsync failed, and the next does nothing unless there is a
	// newer change.
	spoiled bool
}

// change is what one operation does to a directory: nil takes a name away.
type change map[string]*node

func newDir() *node {
	return &node{dir: true, entries: map[string]*node{}, names: map[string]*node{}}
}

func (n *node) write(data []byte) {
	n.data = append(n.data, data...)
	n.dirty, n.spoiled = true, false
}

func (n *node) change(c change) {
	c.apply(n.entries)
	n.changes = append(n.changes, c)
	n.spoiled = false
}

func (c change) apply(to map[string]*node) {
	for name, n := range c {
		if n == nil {
			delete(to, name)
		} else {
			to[name] = n
		}
	}
}

func (n *node) sync() {
	if n.spoiled {
		return
	}
	if n.dir {
		n.names, n.changes = maps.Clone(n.entries), nil
		return
	}
	n.durable, n.dirty = slices.Clone(n.data), false
}

func (n *node) spoil() {
	n.spoiled = n.dirty || len(n.changes) > 0
}

// survivor makes what the disk holds after a power cut; pick chooses one of so many
// ways, of which 0 keeps least.
func (n *node) survivor(pick func(ways int) int) *node {
	if !n.dir {
		return n.survivingFile(pick)
	}
	names := maps.Clone(n.names)
	for _, c := range n.changes {
		if pick(2) == 1 {
			c.apply(names)
		}
	}
	after := newDir()
	for _, name := range slices.Sorted(maps.Keys(names)) { // in order, so that a seed gives the same each time
		after.entries[name] = names[name].survivor(pick)
	}
	after.names = maps.Clone(after.entries)
	return after
}

// survivingFile has the ways of doc.go.
func (n *node) survivingFile(pick func(ways int) int) *node {
	data := n.durable
	if n.dirty {
		switch pick(5) {
		case 1:
			data = nil
		case 2:
			data = n.data[:len(n.data)/2]
		case 3:
			data = make([]byte, len(n.data))
		case 4:
			data = n.data
		}
	}
	return &node{data: slices.Clone(data), durable: slices.Clone(data)}
}

// copied makes the same again, pending changes and all, with nothing shared. A node
// under two names, or on the disk alone, stays one.
func (n *node) copied(seen map[*node]*node) *node {
	if n == nil {
		return nil
	}
	if c := seen[n]; c != nil {
		return c
	}
	c := &node{dir: n.dir, data: slices.Clone(n.data), durable: slices.Clone(n.durable), dirty: n.dirty, spoiled: n.spoiled}
	seen[n] = c
	if n.dir {
		c.entries, c.names = copiedNames(n.entries, seen), copiedNames(n.names, seen)
		for _, change := range n.changes {
			c.changes = append(c.changes, copiedNames(change, seen))
		}
	}
	return c
}

func copiedNames(names map[string]*node, seen map[*node]*node) map[string]*node {
	c := make(map[string]*node, len(names))
	for name, n := range names {
		c[name] = n.copied(seen)
	}
	return c
}
