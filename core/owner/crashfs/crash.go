// SPDX-License-Identifier: GPL-3.0-or-later

package crashfs

import (
	"iter"
	"math/rand/v2"
)

// Crash is what a power cut leaves that keeps nothing but what was fsynced.
func (f *FS) Crash() *FS { return f.cut(func(int) int { return 0 }) }

// CrashSeed is what a power cut leaves that keeps by chance some of what was not
// fsynced. The same seed on the same FS gives the same.
func (f *FS) CrashSeed(seed uint64) *FS {
	return f.cut(rand.New(rand.NewPCG(seed, 0)).IntN)
}

// Crashes gives every FS that a power cut may leave, the one of [FS.Crash] first, if
// they are at most most; otherwise that many, chosen by seed, after Crash's.
func (f *FS) Crashes(most int, seed uint64) iter.Seq[*FS] {
	return func(yield func(*FS) bool) {
		if all, ok := f.ways(most); ok {
			for _, way := range all {
				if !yield(f.cut(way.follow())) {
					return
				}
			}
			return
		}
		if !yield(f.Crash()) {
			return
		}
		for i := range uint64(max(most, 1) - 1) {
			if !yield(f.CrashSeed(seed + i)) {
				return
			}
		}
	}
}

// Kill is what the end of the process leaves: all that was done, durable or not,
// pending changes included, so that a power cut may follow.
func (f *FS) Kill() *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.heir(f.root.copied(map[*node]*node{}))
}

func (f *FS) cut(pick func(ways int) int) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.heir(f.root.survivor(pick))
}

// heir keeps nothing of f but which fsyncs it ignores.
func (f *FS) heir(root *node) *FS {
	after := newFS(root)
	after.deafFile, after.deafDir = f.deafFile, f.deafDir
	return after
}

// way is one sequence of choices: what was picked, out of how many.
type way []choice

type choice struct{ picked, of int }

// follow picks as way says, and 0 beyond its end.
func (w way) follow() func(int) int {
	i := -1
	return func(int) int {
		if i++; i < len(w) {
			return w[i].picked
		}
		return 0
	}
}

// ways lists all sequences of choices, like the numbers of an odometer whose later
// wheels depend on the earlier; false if there are more than most.
func (f *FS) ways(most int) (all []way, ok bool) {
	var next way
	for len(all) < most {
		follow, taken := next.follow(), way(nil)
		f.cut(func(of int) int {
			taken = append(taken, choice{follow(of), of})
			return taken[len(taken)-1].picked
		})
		all = append(all, taken)
		if next = taken.next(); next == nil {
			return all, true
		}
	}
	return nil, false
}

// next turns the last wheel that can still be turned; nil after the last way.
func (w way) next() way {
	for i := len(w) - 1; i >= 0; i-- {
		if w[i].picked+1 < w[i].of {
			n := append(way(nil), w[:i+1]...)
			n[i].picked++
			return n
		}
	}
	return nil
}
