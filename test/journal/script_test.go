// SPDX-License-Identifier: GPL-3.0-or-later

package journal

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"
)

// script is a history that a test makes up, on a disk of a few sectors. Times are
// milliseconds.
type script struct {
	t testing.TB
	*Disk
}

const scriptSectors = 8

// newScript begins an hour ago, so that an image is read behind everything.
func newScript(t testing.TB) *script {
	d := NewDisk(scriptSectors * SectorSize)
	d.began = time.Now().Add(-time.Hour)
	return &script{t, d}
}

const ms = int64(time.Millisecond)

func (s *script) add(o operation) *operation {
	o.call *= ms
	if o.ret != open {
		o.ret *= ms
	}
	o.began = o.call
	if o.count == 0 {
		o.count = 1
	}
	if o.server == "" {
		o.server = "A"
	}
	s.history = append(s.history, &o)
	return &o
}

// write adds an acknowledged write of sector 0, and returns what it leaves.
func (s *script) write(conn int, seq uint64, call, ret int64) value {
	return s.add(operation{kind: write, writer: conn, value: valueOf(conn, seq), call: call, ret: ret, answered: true}).value
}

// attempt adds a write of sector 0 that was not answered.
func (s *script) attempt(conn int, seq uint64, call, ret int64) value {
	return s.add(operation{kind: write, writer: conn, value: valueOf(conn, seq), call: call, ret: ret}).value
}

func (s *script) zero(conn int, call, ret int64) {
	s.add(operation{kind: zeroes, writer: conn, call: call, ret: ret, answered: true})
}

// read adds a read of sector 0 that found v.
func (s *script) read(conn int, v value, call, ret int64) *operation {
	b := make([]byte, SectorSize)
	encode(b, s.tag, v, 0)
	return s.readBytes(conn, b, call, ret)
}

func (s *script) readBytes(conn int, b []byte, call, ret int64) *operation {
	o := s.add(operation{kind: read, writer: conn, call: call, ret: ret, answered: true})
	o.find(b, s.tag, 0)
	return o
}

// image returns a disk whose sector 0 holds v.
func (s *script) image(v value) *bytes.Reader {
	b := make([]byte, s.Size())
	encode(b[:SectorSize], s.tag, v, 0)
	return bytes.NewReader(b)
}

func (s *script) check() (Report, error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	return s.Check(ctx, nil)
}

func (s *script) wantRight() Report {
	s.t.Helper()
	r, err := s.check()
	if err != nil {
		s.t.Errorf("a history as it should be: %v", err)
	}
	return r
}

// wantWrong expects a complaint that has all these words.
func (s *script) wantWrong(words ...string) {
	s.t.Helper()
	_, err := s.check()
	wantComplaint(s.t, err, words...)
}

func wantComplaint(t testing.TB, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Error("nobody complains")
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the complaint does not say %q: %v", w, err)
		}
	}
}

// soon is before any long search can end.
func soon() time.Time { return time.Now().Add(50 * time.Millisecond) }
