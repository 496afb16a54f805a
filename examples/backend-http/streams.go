// SPDX-License-Identifier: Apache-2.0

package main

import "sync"

// mostStreams is how many clients, or threads of one, may read in sequence at a time
// and be noticed.
const mostStreams = 16

// streams notices who reads in sequence. It looks at blocks, not bytes: a client with
// many requests under way sends them in order only by and large.
type streams struct {
	mu     sync.Mutex
	newest []int64 // the last block of each stream
	next   int     // the stream that is replaced by a new one
}

// goesOn says whether a read of the blocks from first to last goes on where a stream
// was, into another block.
func (s *streams) goesOn(first, last int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, newest := range s.newest {
		switch {
		case first == newest && last == newest:
			return false // nothing new
		case first == newest || first == newest+1:
			s.newest[i] = last
			return true
		}
	}
	if len(s.newest) < mostStreams {
		s.newest = append(s.newest, last)
		return false
	}
	s.newest[s.next] = last
	s.next = (s.next + 1) % mostStreams
	return false
}
