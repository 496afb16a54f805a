// SPDX-License-Identifier: Apache-2.0

package wiretest

import (
	"context"

	"github.com/flexnbd/flexnbd/sdk/rangelock"
	"github.com/flexnbd/flexnbd/sdk/store"
)

// Locked returns s with the range locked in every call that has one, as whoever calls a
// backend beside a lane does.
func Locked(s store.Store, ranges *rangelock.Lock) store.Store {
	return &locked{Store: s, ranges: ranges}
}

type locked struct {
	store.Store
	ranges *rangelock.Lock
}

func (l *locked) with(ctx context.Context, off, length int64, change bool, do func() error) error {
	claim, err := l.ranges.Lock(ctx, off, off+length, change)
	if err != nil {
		return err
	}
	defer l.ranges.Unlock(claim)
	return do()
}

func (l *locked) ReadAt(ctx context.Context, p []byte, off int64) error {
	return l.with(ctx, off, int64(len(p)), false, func() error { return l.Store.ReadAt(ctx, p, off) })
}

func (l *locked) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	return l.with(ctx, off, int64(len(p)), true, func() error { return l.Store.WriteAt(ctx, p, off, flags) })
}

func (l *locked) PunchHole(ctx context.Context, off, length int64, flags store.Flags) error {
	return l.with(ctx, off, length, true, func() error { return l.Store.PunchHole(ctx, off, length, flags) })
}
