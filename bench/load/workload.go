// SPDX-License-Identifier: GPL-3.0-or-later

package load

import (
	"fmt"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// Workload says what requests there are.
type Workload struct {
	Connections int  // from 1
	Depth       int  // requests in flight on each connection, from 1 to MaxDepth
	Block       int  // bytes in each request, a multiple of PageSize
	Sequential  bool // else at random
	Reads       int  // percent, from 0 to 100; the others write
}

// Bounds of a workload. The depth keeps a batch of requests within one sendmsg,
// and the block is the longest request that all servers take.
const (
	MaxDepth = 512
	MaxBlock = 32 << 20
)

func (w *Workload) check(size uint64) error {
	switch {
	case w.Connections < 1, w.Depth < 1, w.Depth > MaxDepth, w.Reads < 0, w.Reads > 100:
		return fmt.Errorf("impossible workload %+v", *w)
	case w.Block < PageSize || w.Block%PageSize != 0 || w.Block > MaxBlock:
		return fmt.Errorf("a block of %d bytes: it has to be a multiple of %d, up to %d", w.Block, PageSize, MaxBlock)
	case size < uint64(w.Block)*uint64(w.Connections):
		return fmt.Errorf("the disk has %d bytes, too few for %d connections with blocks of %d bytes", size, w.Connections, w.Block)
	}
	return nil
}

// chooser says what comes next on one connection.
type chooser struct {
	block  uint64
	blocks uint64 // on the disk
	cursor uint64 // the next block, when sequential
	w      Workload
	state  uint64 // of the generator of random numbers
}

// newChooser returns one whose sequence starts at a place of its own for each
// connection.
func newChooser(w Workload, size uint64, connection int) chooser {
	blocks := size / uint64(w.Block)
	return chooser{
		block:  uint64(w.Block),
		blocks: blocks,
		cursor: blocks * uint64(connection) / uint64(w.Connections),
		w:      w,
	}
}

// seed makes what follows the same for each server that is given the same seed.
func (c *chooser) seed(n uint64) { c.state = n*0x9e3779b97f4a7c15 + 1 }

// random is splitmix64, which needs a few instructions only.
func (c *chooser) random() uint64 {
	c.state += 0x9e3779b97f4a7c15
	z := c.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// below returns a random number from 0 to n-1; n is far below 2^32, so that the
// bias does not matter.
func (c *chooser) below(n uint64) uint64 { return c.random() >> 32 * n >> 32 }

func (c *chooser) next() (cmd nbd.Command, off uint64) {
	cmd = nbd.CmdRead
	switch {
	case c.w.Reads == 0:
		cmd = nbd.CmdWrite
	case c.w.Reads < 100 && c.below(100) >= uint64(c.w.Reads):
		cmd = nbd.CmdWrite
	}
	if !c.w.Sequential {
		return cmd, c.below(c.blocks) * c.block
	}
	off = c.cursor * c.block
	if c.cursor++; c.cursor == c.blocks {
		c.cursor = 0
	}
	return cmd, off
}
