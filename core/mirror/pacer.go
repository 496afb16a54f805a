// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"context"
	"sync"
	"time"
)

// pacer keeps the copy in the background from taking from clients what they could
// use, as long as the copy can afford that.
//
// Where clients are at work, a full window on its way to the destination makes each of
// their requests queue behind it: for the processor, for the disk, for the network. So
// then only so much is on its way as the path takes without a queue. As in TCP Vegas
// (Brakmo and Peterson, 1995), that is told from the time that pieces take: the
// shortest seen lately is that of an empty path, and what a piece takes beyond it was
// spent in queues. Of n pieces on their way, n * (1 - shortest/latest) are in a queue;
// more than maxQueued, and the window shrinks, less, and it grows.
//
// Without clients, and when what they write has to be caught up with, the window is
// the whole one.
type pacer struct {
	mu       sync.Mutex
	free     bool    // the whole window, whatever clients do
	size     float64 // of the window, in pieces
	onTheWay int
	shortest [2]time.Duration // in this baseAge, and in the one before
	turned   time.Time        // when that began
	ended    chan struct{}    // gets a token when a piece ends

	seen time.Time // when clients were last at work; the copier's own
}

const (
	// politePiece is the size of pieces while clients are at work.
	politePiece = 64 << 10
	maxQueued   = 1.0
	// Clients count as at work for workingFor after one was seen inside the gate,
	// which is looked at for each piece.
	workingFor = 20 * time.Millisecond
	// baseAge is how long an empty path is remembered, twice that at most.
	baseAge = 30 * time.Second
)

func newPacer() *pacer {
	return &pacer{size: 1, ended: make(chan struct{}, 1), turned: time.Now()}
}

// setFree switches the politeness off, or on again.
func (p *pacer) setFree(free bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = free
}

// wait waits until another piece may go, and returns its size. working says whether a
// client is inside the gate at this moment.
func (p *pacer) wait(ctx context.Context, working bool) (int64, error) {
	now := time.Now()
	if working {
		p.seen = now
	}
	if now.Sub(p.seen) > workingFor {
		return pieceSize, nil
	}
	for {
		p.mu.Lock()
		free, room := p.free, float64(p.onTheWay) < p.size
		p.mu.Unlock()
		switch {
		case free:
			return pieceSize, nil
		case room:
			return politePiece, nil
		}
		select {
		case <-p.ended:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// begin says that a piece is on its way.
func (p *pacer) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.onTheWay++
}

// end says that a piece of a size has ended; took is 0 if it was not sent.
func (p *pacer) end(size int64, took time.Duration) {
	p.mu.Lock()
	if size == politePiece && took > 0 {
		p.learn(took)
	}
	p.onTheWay--
	p.mu.Unlock()
	select {
	case p.ended <- struct{}{}:
	default:
	}
}

// learn adapts the window. mu is held.
func (p *pacer) learn(took time.Duration) {
	if now := time.Now(); now.Sub(p.turned) > baseAge {
		p.shortest[1], p.shortest[0] = p.shortest[0], 0
		p.turned = now
	}
	if p.shortest[0] == 0 || took < p.shortest[0] {
		p.shortest[0] = took
	}
	base := p.shortest[0]
	if before := p.shortest[1]; before != 0 {
		base = min(base, before)
	}
	if float64(p.onTheWay)*(1-float64(base)/float64(took)) > maxQueued {
		p.size = max(1, p.size-1)
	} else {
		p.size = min(numPieces, p.size+0.5)
	}
}
