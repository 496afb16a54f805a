// SPDX-License-Identifier: GPL-3.0-or-later

package logging

import (
	"io"
	"sync"
)

// sink is the one place that writes.
type sink struct {
	mu sync.Mutex // held for one Write
	w  io.Writer
}

func (s *sink) write(line []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = s.w.Write(line) // see the package comment: there is nowhere to report it
}

// lines keeps buffers between lines, so that a line costs no allocation.
var lines = sync.Pool{New: func() any { return new([]byte) }}

// withLine lends a buffer to fill, which appends a line, and writes it.
func (s *sink) withLine(fill func([]byte) []byte) {
	buf := lines.Get().(*[]byte)
	*buf = fill((*buf)[:0])
	s.write(*buf)
	if cap(*buf) <= MaxLine*2 {
		lines.Put(buf)
	}
}
