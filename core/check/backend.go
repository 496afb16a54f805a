// SPDX-License-Identifier: GPL-3.0-or-later

package check

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/flexnbd/flexnbd/core/host"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/storetest"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// leastSize is the smallest disk that the clauses can do with, in bytes.
const leastSize = 1 << 20

// backend checks a backend.
func (r *run) backend(ctx context.Context) {
	if !r.starts(ctx) || !r.opens(ctx) {
		return
	}
	r.lives(ctx, r.employBackend)
	if r.wantsAny(readOnlyPart, readOnlyIsThere) {
		r.readOnly(ctx)
	}
	for _, lane := range []string{wire.LaneRPC, wire.LaneRing, wire.LaneFile} {
		if r.wantsAny(lanePart(lane), laneIsThere, laneIsQuiet, killIsSurvived) {
			r.lane(ctx, lane)
		}
	}
}

// Clauses that this file and others of the package add to sdk/storetest's.
const (
	readOnlyIsThere = "ReadOnlyDiskIsThere"
	laneIsThere     = "LaneIsThere"
	laneIsQuiet     = "FlexnbdHasNothingToWarnOf"
	killIsSurvived  = "KilledProcessIsReplaced"
)

func lanePart(lane string) string { return "lane " + lane }

// opens opens the disk for the first time, and learns how large it is.
func (r *run) opens(ctx context.Context) bool {
	return r.try(ctx, promise{
		processPart, "OpensTheDisk",
		"sdk.Backend.Open opens a disk, and must not return a store that it cannot serve; Info passes Info.Check",
		func(ctx context.Context) (string, error) {
			d, remove, err := r.open(ctx, leastSize, wire.LaneRPC, false)
			if err != nil {
				return "", err
			}
			switch info := d.Info(); {
			case r.place.fresh():
				r.learn(ctx, info)
			case info.ReadOnly:
				err = errors.New("the disk is read-only, although it was not opened so; name one that may be overwritten")
			case info.Size < leastSize:
				err = fmt.Errorf("the disk has %d bytes, and the clauses need at least %d; name a larger one", info.Size, int64(leastSize))
			default:
				r.fixed = info.Size
			}
			return "", errors.Join(err, d.Close(), remove())
		},
	}, true)
}

// mostOverhead is the most that a backend may keep for itself of a fresh disk, in bytes.
const mostOverhead = leastSize / 2

// learn finds out from a fresh disk of leastSize how large others have to be made, and
// whether a backend that works in blocks has disks of whole blocks alone.
func (r *run) learn(ctx context.Context, info store.Info) {
	if missing := leastSize - info.Size; 0 < missing && missing <= mostOverhead {
		r.place.overhead = missing
	}
	if r.SizeUnit != 0 || info.MinBlock <= 1 {
		return
	}
	d, remove, err := r.open(ctx, leastSize+1, wire.LaneRPC, false)
	if err != nil {
		r.SizeUnit = int64(info.MinBlock)
		return
	}
	_ = errors.Join(d.Close(), remove()) // the clauses find out what is wrong with it
}

// open opens a disk in a process of its own, as a server does.
func (r *run) open(ctx context.Context, size int64, lane string, readOnly bool) (*host.Disk, func() error, error) {
	what, remove, err := r.place.disk(size)
	if err != nil {
		return nil, nil, err
	}
	what.Lanes, what.ReadOnly = []string{lane}, readOnly
	d, err := r.host.OpenDisk(ctx, r.Program, what)
	if err != nil {
		return nil, nil, errors.Join(err, remove())
	}
	return d, remove, nil
}

// employBackend opens a disk in a process.
func (r *run) employBackend(ctx context.Context, p *host.Process) (work, error) {
	what, remove, err := r.place.disk(leastSize)
	if err != nil {
		return work{}, err
	}
	s, err := p.OpenDisk(ctx, what)
	if err != nil {
		return work{}, errors.Join(err, remove())
	}
	return work{
		call: func(ctx context.Context) error {
			page := make([]byte, 64<<10)
			_, err := s.Extents(ctx, 0, int64(len(page)))
			return errors.Join(err, s.WriteAt(ctx, page, 0, 0), s.ReadAt(ctx, page, 0), s.PunchHole(ctx, 0, int64(len(page)), 0), s.Flush(ctx))
		},
		done:   s.Close,
		remove: remove,
	}, nil
}

const readOnlyPart = "read-only"

// readOnly runs the suite on disks that were opened for reading alone, if the backend
// has such a thing.
func (r *run) readOnly(ctx context.Context) {
	has := false
	ok := r.try(ctx, promise{
		readOnlyPart, readOnlyIsThere,
		"sdk.Disk.ReadOnly: never change the disk, and share it with other readers",
		func(ctx context.Context) (string, error) {
			d, remove, err := r.open(ctx, leastSize, wire.LaneRPC, true)
			if err != nil {
				return fmt.Sprintf("the backend opens no disk read-only: %v", err), nil
			}
			has = d.Info().ReadOnly
			return unless(has, "a disk that was opened read-only does not say Info.ReadOnly; flexnbd itself refuses changes then"),
				errors.Join(d.Close(), remove())
		},
	}, true)
	if !ok || !has {
		return
	}
	r.suite(ctx, readOnlyPart, func(t testing.TB, size int64) store.Store {
		if !r.place.fresh() {
			if err := r.blankIt(t.Context()); err != nil {
				t.Fatalf("making the disk zero: %v", err)
			}
		}
		d, remove, err := r.open(t.Context(), size, wire.LaneRPC, true)
		if err != nil {
			t.Fatal(err)
		}
		return r.watched(t, d, remove, wire.LaneRPC)
	})
}

func unless(applies bool, why string) string {
	if applies {
		return ""
	}
	return why
}

// lane runs the suite on one lane, and kills a process that works on it.
func (r *run) lane(ctx context.Context, lane string) {
	part := lanePart(lane)
	has := false
	ok := r.try(ctx, promise{
		part, laneIsThere,
		"docs/plugin-protocol.md: Open is answered with a lane of those that the host has offered",
		func(ctx context.Context) (string, error) {
			d, remove, err := r.open(ctx, leastSize, lane, false)
			switch {
			case err != nil && lane != wire.LaneRPC && store.Errno(err) == store.Errno(store.ErrNotSupported):
				return fmt.Sprintf("the backend does not have it: %v", err), nil
			case err != nil:
				return "", err
			case d.Lane() != lane:
				err = fmt.Errorf("the data takes lane %s instead", d.Lane())
			}
			has = true
			return "", errors.Join(err, d.Close(), remove())
		},
	}, true)
	if !ok || !has {
		return
	}
	r.log.forget()
	r.suite(ctx, part, func(t testing.TB, size int64) store.Store {
		d, remove, err := r.open(t.Context(), size, lane, false)
		if err != nil {
			t.Fatal(err)
		}
		if !r.place.fresh() {
			if err := blank(t.Context(), d); err != nil {
				t.Fatalf("making the disk zero: %v", errors.Join(err, d.Close()))
			}
		}
		return r.watched(t, d, remove, lane)
	})
	r.try(ctx, promise{
		part, laneIsQuiet,
		"flexnbd warns in its log where a plugin ends in the middle, does not end, or where its data has to take a slower lane",
		func(context.Context) (string, error) { return "", r.log.err() },
	}, false)
	r.try(ctx, promise{
		part, killIsSurvived,
		"Info.Survives says what a new process still finds of what a crashed one had acknowledged, Info.Replayable whether requests in flight may be repeated",
		func(ctx context.Context) (string, error) { return r.kill(ctx, lane) },
	}, false)
}

// suite runs sdk/storetest.
func (r *run) suite(ctx context.Context, part string, open storetest.Factory) {
	storetest.Suite{
		Open:       open,
		FixedSize:  r.fixed,
		SizeUnit:   r.SizeUnit,
		OneAtATime: r.fixed != 0,
		Seed:       r.Seed,
		Limit:      r.Limit,
		LeaveOut: func(c storetest.Clause) string {
			switch {
			case !r.wanted(part, c.Name):
				return notWanted
			case part != lanePart(wire.LaneFile) && (strings.HasPrefix(c.Name, "Lent") || strings.HasPrefix(c.Name, "Loan")):
				return "descriptors are lent on lane " + wire.LaneFile
			case c.Name == "LoanIsOutUntilItIsReturned":
				return "nobody outside the plugin can have it take its loan back"
			}
			return ""
		},
	}.Check(ctx, func(s storetest.Result) {
		r.report(Result{Part: part, Name: s.Name, Says: s.Says, Err: s.Err, Skipped: s.Skipped, Took: s.Took})
	})
}
