// SPDX-License-Identifier: GPL-3.0-or-later

package journal

import (
	"bytes"
	"io"
	"testing"
)

func TestCompareAllowsWhatMayHaveComeLast(t *testing.T) {
	w := func(conn int) value { return valueOf(conn, 1) }
	for _, c := range []struct {
		name      string
		play      func(*script)
		right     []value
		wrong     []value
		complaint string
	}{
		{"nothing written", func(*script) {}, []value{zero}, []value{w(1)}, "allowed: zeroes, as at the beginning"},
		{"one after the other", func(s *script) { s.write(1, 1, 1, 2); s.write(2, 1, 3, 4) },
			[]value{w(2)}, []value{w(1), zero, w(3)}, "allowed: write 1 of connection 2 (sent at 0.003000s, answered by A at 0.004000s)"},
		{"at once", func(s *script) { s.write(1, 1, 1, 4); s.write(2, 1, 2, 3) },
			[]value{w(1), w(2)}, []value{zero}, "allowed: write 1 of connection 1"},
		{"a chain of overlaps", func(s *script) { s.write(1, 1, 1, 4); s.write(2, 1, 3, 8); s.write(3, 1, 5, 9) },
			[]value{w(2), w(3)}, []value{w(1)}, "; or write 1 of connection 3"},
		{"never answered", func(s *script) { s.attempt(1, 1, 1, open); s.write(2, 1, 2, 3) },
			[]value{w(1), w(2)}, []value{zero}, "not answered"},
		{"never answered, alone", func(s *script) { s.attempt(1, 1, 1, open) },
			[]value{w(1), zero}, []value{w(2)}, "zeroes, as at the beginning; or write 1 of connection 1"},
		{"broken and repeated", func(s *script) { s.attempt(1, 1, 1, 4); s.write(1, 1, 3, 4); s.write(2, 1, 5, 6) },
			[]value{w(2)}, []value{w(1)}, "allowed: write 1 of connection 2"},
		{"zeroed", func(s *script) { s.write(1, 1, 1, 2); s.zero(1, 3, 4) },
			[]value{zero}, []value{w(1)}, "allowed: zeroes (sent at"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScript(t)
			c.play(s)
			for _, v := range c.right {
				if err := s.Compare(s.image(v)); err != nil {
					t.Errorf("%v: %v", v, err)
				}
			}
			for _, v := range c.wrong {
				wantComplaint(t, s.Compare(s.image(v)), "sector 0", "the image holds "+v.String(), c.complaint)
			}
		})
	}
}

func TestCompareFindsTornSectorsAlsoOfOpenEndedWrites(t *testing.T) {
	s := newScript(t)
	w1 := s.write(1, 1, 1, 2)
	w2 := s.attempt(2, 1, 3, open)
	image := make([]byte, s.Size())
	copy(image, s.tear(w2, w1))
	wantComplaint(t, s.Compare(bytes.NewReader(image)), "a torn sector")
	_, err := s.Check(t.Context(), bytes.NewReader(image))
	wantComplaint(t, err, "the image found a torn sector")
}

func TestShortImageIsAnError(t *testing.T) {
	s := newScript(t)
	short := bytes.NewReader(make([]byte, s.Size()-1))
	wantComplaint(t, s.Compare(short), io.EOF.Error(), "at byte 4095")
	if _, err := s.Check(t.Context(), short); err == nil {
		t.Error("the check takes a short image")
	}
}

func TestFillIsWhatTheDiskHoldsFirst(t *testing.T) {
	d := NewDisk(8 << 20)
	image := &memory{b: make([]byte, 8<<20)}
	if err := d.Fill(image, 1<<20, 5<<20+SectorSize); err != nil {
		t.Fatal(err)
	}
	if r, err := d.Check(t.Context(), image); err != nil || r.Sectors != 10241 {
		t.Errorf("%+v, %v", r, err)
	}
	clear(image.b[2<<20:][:SectorSize])
	wantComplaint(t, d.Compare(image), "sector 4096", "the image holds zeroes; allowed: what Fill wrote (1)")
	if err := d.Fill(image, 1, SectorSize); err == nil {
		t.Error("half a sector is filled")
	}
	if err := d.Fill(image, 8<<20, SectorSize); err == nil {
		t.Error("a sector behind the end is filled")
	}
}

type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) { return copy(m.b[off:], p), nil }
func (m *memory) ReadAt(p []byte, off int64) (int, error)  { return copy(p, m.b[off:]), nil }
