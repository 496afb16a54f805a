// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"

	"github.com/flexnbd/flexnbd/sdk/wire/fifo"
)

// budget is a number of bytes that borrowers share, first come, first served.
type budget struct {
	line *fifo.Line[int]
	free int // the line's
}

func newBudget(bytes int) *budget {
	b := &budget{free: bytes}
	b.line = fifo.New(b.setApart, func(n int) { b.free += n })
	return b
}

func (b *budget) setApart(n int) (int, bool) {
	if b.free < n {
		return 0, false
	}
	b.free -= n
	return n, true
}

// tryTake takes n bytes unless it would have to wait or to overtake.
func (b *budget) tryTake(n int) bool {
	_, ok := b.line.Try(n)
	return ok
}

// take takes n bytes, waiting for its turn and for them to be free. n must not
// exceed the whole budget. The error is the context's; nothing is taken then.
func (b *budget) take(ctx context.Context, n int) error {
	_, err := b.line.Take(ctx, n)
	return err
}

// give returns n bytes.
func (b *budget) give(n int) { b.line.Give(n) }
