// SPDX-License-Identifier: GPL-3.0-or-later

package export

import (
	"context"
	"sync"
	"time"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// The build of the zero map asks for buildPiece bytes of the extent map at a
// time, one call after the other, and rests as long as it has worked, so that
// clients have the store at least half of the time. It rests when it has worked
// for buildStint, which is more than a timer's grain, and for buildRest at most.
const (
	buildPiece = maxSpan
	buildStint = 5 * time.Millisecond
	buildRest  = 100 * time.Millisecond
)

// builder keeps track of the builds, of which one runs at a time.
type builder struct {
	ctx  context.Context // of all builds
	stop context.CancelFunc

	mu     sync.Mutex
	closed bool               // no further build is started
	cancel context.CancelFunc // of the latest
	built  chan struct{}      // closed when the latest has ended
}

// close stops the build that is under way and starts no other.
func (b *builder) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.stop()
}

// startBuild starts a build, in place of one that may be under way.
func (e *Export) startBuild() {
	b := &e.builder
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	before := b.built
	if b.cancel != nil {
		b.cancel()
	}
	ctx, cancel := context.WithCancel(b.ctx)
	built := make(chan struct{})
	b.cancel, b.built = cancel, built
	e.background.Go(func() {
		defer close(built)
		defer cancel()
		if before != nil {
			<-before
		}
		if e.info.CanExtents {
			e.build(ctx)
		}
	})
}

// Built is closed once the latest build of the zero map has ended: from then on a
// write of zeroes to what the store has said to be zero is left out. It is not
// worth waiting for in order to serve.
func (e *Export) Built() <-chan struct{} {
	e.builder.mu.Lock()
	defer e.builder.mu.Unlock()
	return e.builder.built
}

// build fills the zero map from the extent map, from the start of the disk to
// its end or to what the map can hold. An error ends it: what is not known to be
// zero is treated as data, so all that is lost is a saving.
func (e *Export) build(ctx context.Context) {
	var t token
	var worked time.Duration
	for off, end := int64(0), min(e.info.Size, 1<<reachBits); off < end && !e.zeros.bits.full(); {
		began := time.Now()
		next, err := e.buildFrom(ctx, &t, off, min(buildPiece, end-off))
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			e.log.Warn("the zero map stays incomplete, since the backend could not say what is allocated: zeroes are stored and read like data",
				"from", off, "size", e.info.Size, "error", err)
			return
		}
		off = next
		if worked += time.Since(began); worked >= buildStint {
			rest(ctx, min(worked, buildRest))
			worked = 0
		}
	}
}

// buildFrom looks at length bytes, or as many as the store chooses to describe,
// and returns where to go on. That is a block's start, so that a block which
// two answers share is seen whole.
func (e *Export) buildFrom(ctx context.Context, t *token, off, length int64) (next int64, err error) {
	e.zeros.beginZero(t, off, length)
	extents, err := e.Extents(ctx, off, length)
	if err != nil {
		return 0, err
	}
	for i := 0; i < len(extents); i++ {
		if extents[i].State&store.Zero == 0 {
			continue
		}
		start := extents[i].Offset
		for i+1 < len(extents) && extents[i+1].State&store.Zero != 0 {
			i++
		}
		e.zeros.endZero(t, off, start, extents[i].End()-start)
	}
	next = extents[len(extents)-1].End()
	if down := next &^ (blockSize - 1); down > off && next < e.info.Size {
		next = down
	}
	return next, nil
}

// rest waits, or returns early when ctx ends.
func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
