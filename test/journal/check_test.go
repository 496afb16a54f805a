// SPDX-License-Identifier: GPL-3.0-or-later

package journal

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestSequentialHistoryIsRight(t *testing.T) {
	s := newScript(t)
	s.read(1, zero, 0, 1)
	w1 := s.write(1, 1, 2, 3)
	s.read(2, w1, 4, 5)
	w2 := s.write(2, 1, 6, 7)
	s.read(1, w2, 8, 9)
	s.zero(1, 10, 11)
	s.read(1, zero, 12, 13)
	if r := s.wantRight(); r.Requests != 7 || r.Sectors != 1 || r.Searched != 0 {
		t.Errorf("%+v", r)
	}
}

func TestLostAcknowledgedWriteIsFound(t *testing.T) {
	s := newScript(t)
	w1 := s.write(1, 1, 1, 2)
	s.write(2, 1, 3, 4)
	s.read(3, w1, 5, 6)
	s.wantWrong("sector 0 (byte 0)", "the read of connection 3", "found write 1 of connection 1", "allowed: write 1 of connection 2 (sent at 0.003000s, answered by A at 0.004000s)")
}

func TestLostAcknowledgedWriteIsFoundAmongConcurrentOnes(t *testing.T) {
	s := newScript(t)
	w1 := s.write(1, 1, 1, 4)
	s.write(2, 1, 2, 5)
	s.write(3, 1, 6, 9)
	s.write(1, 2, 7, 8)
	s.read(2, w1, 10, 12)
	s.read(3, w1, 11, 13)
	s.wantWrong("found write 1 of connection 1", "write 2 of connection 1", "write 1 of connection 3")
}

func TestLostZeroingIsFound(t *testing.T) {
	s := newScript(t)
	w := s.write(1, 1, 1, 2)
	s.zero(1, 3, 4)
	s.read(1, w, 5, 6)
	s.wantWrong("found write 1 of connection 1", "allowed: zeroes")
}

func TestReadGoingBackwardsIsFound(t *testing.T) {
	for name, end := range map[string]int64{"beside a write": 20, "beside one that was never answered": open} {
		t.Run(name, func(t *testing.T) {
			s := newScript(t)
			w1 := s.write(1, 1, 1, 2)
			w2 := s.attempt(2, 1, 3, end)
			s.read(3, w2, 4, 5)
			s.wantRight()
			s.read(4, w1, 6, 7)
			s.wantWrong("the read of connection 4", "found write 1 of connection 1", "allowed: write 1 of connection 2")
		})
	}
}

func TestOldServerAnsweringAfterANewOneIsFound(t *testing.T) {
	s := newScript(t)
	w1 := s.write(1, 1, 1, 2)
	s.add(operation{kind: write, writer: 2, value: valueOf(2, 1), call: 3, ret: 4, answered: true, server: "B"})
	s.read(1, w1, 5, 6) // A's
	s.wantWrong("answered by A", "allowed: write 1 of connection 2 (sent at 0.003000s, answered by B")
	if got := s.Served(); !slices.Equal(got, []string{"A", "B", "A"}) {
		t.Errorf("served by %v", got)
	}
}

func TestWriteTakenOverByOneServerAndForgottenByTheOtherIsFound(t *testing.T) {
	s := newScript(t)
	s.add(operation{kind: write, writer: 1, value: valueOf(1, 1), call: 1, ret: 2, answered: true, server: "A"})
	o := s.read(2, zero, 3, 4)
	o.server = "B"
	s.wantWrong("answered by B", "found zeroes, as at the beginning", "allowed: write 1 of connection 1")
}

func TestBrokenAttemptMayTakeEffectUntilItsRepeatIsAnswered(t *testing.T) {
	s := newScript(t)
	w1 := s.attempt(1, 1, 1, 10) // broken, repeated until 10
	w2 := s.write(2, 1, 2, 3)
	s.read(2, w1, 4, 5)
	w3 := s.write(2, 2, 6, 7)
	s.read(2, w3, 7, 8)
	s.write(1, 1, 8, 10) // the repeat
	s.read(2, w1, 11, 12)
	s.wantRight()
	if w2 == w1 {
		t.Fatal("two writes with one value")
	}
}

func TestBrokenAttemptThatLandsAfterItsRepeatWasAnsweredIsFound(t *testing.T) {
	s := newScript(t)
	w1 := s.attempt(1, 1, 1, 4)
	s.write(1, 1, 3, 4)
	w2 := s.write(2, 1, 5, 6)
	s.read(2, w2, 7, 8)
	s.read(2, w1, 9, 10)
	s.wantWrong("found write 1 of connection 1", "allowed: write 1 of connection 2")
}

func TestOpenEndedWriteMayTakeEffectLaterButOnlyOnce(t *testing.T) {
	s := newScript(t)
	w1 := s.attempt(1, 1, 1, open)
	w2 := s.write(2, 1, 2, 3)
	s.read(2, w2, 4, 5)
	s.read(2, w1, 6, 7)
	s.wantRight()
	s.read(2, w2, 8, 9)
	s.wantWrong("found write 1 of connection 2", "allowed: write 1 of connection 1")
}

func TestOpenEndedWriteMayNeverTakeEffect(t *testing.T) {
	s := newScript(t)
	s.attempt(1, 1, 1, open)
	w2 := s.write(2, 1, 2, 3)
	s.read(2, w2, 4, 5)
	s.wantRight()
}

func TestWriteThatWasNeverSentHereIsFound(t *testing.T) {
	s := newScript(t)
	s.write(1, 1, 1, 2)
	s.read(1, valueOf(7, 7), 3, 4)
	s.wantWrong("write 7 of connection 7, which had not been written here")
}

func TestReadOfTheFutureIsFound(t *testing.T) {
	s := newScript(t)
	s.read(1, valueOf(1, 1), 1, 2)
	s.write(1, 1, 3, 4)
	s.wantWrong("which had not been written here")
}

// tear puts the first half of one write and the second of another into one sector.
func (s *script) tear(a, b value) []byte {
	whole, rest := make([]byte, SectorSize), make([]byte, SectorSize)
	encode(whole, s.tag, a, 0)
	encode(rest, s.tag, b, 0)
	return append(whole[:SectorSize/2], rest[SectorSize/2:]...)
}

func TestTornSectorIsFound(t *testing.T) {
	s := newScript(t)
	w1 := s.write(1, 1, 1, 2)
	w2 := s.write(2, 1, 3, 4)
	s.readBytes(3, s.tear(w2, w1), 5, 6)
	s.wantWrong("the read of connection 3", "a torn sector: write 1 of connection 2 up to byte 256")
}

func TestTornSectorDuringAWriteIsLetPass(t *testing.T) {
	s := newScript(t)
	w1 := s.write(1, 1, 1, 2)
	w2 := s.write(2, 1, 3, 6)
	s.readBytes(3, s.tear(w2, w1), 4, 5)
	if r := s.wantRight(); r.Torn != 1 {
		t.Errorf("%+v", r)
	}
}

func TestTornSectorOfOtherWritesIsFoundAlsoDuringAWrite(t *testing.T) {
	s := newScript(t)
	w1 := s.write(1, 1, 1, 2)
	s.write(2, 1, 3, 6)
	s.readBytes(3, s.tear(valueOf(9, 9), w1), 4, 5)
	s.wantWrong("a torn sector")
}

func TestBytesThatNoWriteMadeAreFound(t *testing.T) {
	s := newScript(t)
	w := s.write(1, 1, 1, 2)
	b := make([]byte, SectorSize)
	encode(b, s.tag, w, 3)
	s.readBytes(1, b, 3, 4)
	s.wantWrong("the content of sector 3, from write 1 of connection 1")

	s = newScript(t)
	encode(b, s.tag+1, w, 0)
	s.readBytes(1, b, 3, 4)
	s.wantWrong("of another disk, or of another run")

	s = newScript(t)
	s.readBytes(1, slices.Repeat([]byte{0xab}, SectorSize), 3, 4)
	s.wantWrong("bytes that no write of a journal made, beginning with ab ab")
}

func TestImageIsTheLastRead(t *testing.T) {
	s := newScript(t)
	w1 := s.write(1, 1, 1, 4)
	w2 := s.write(2, 1, 2, 5)
	s.read(3, w2, 6, 7)
	if r, err := s.Check(t.Context(), s.image(w2)); err != nil || r.Requests != 3 {
		t.Errorf("%+v, %v", r, err)
	}
	if err := s.Compare(s.image(w1)); err != nil {
		t.Errorf("without the reads, either of the two is a possible end: %v", err)
	}
	_, err := s.Check(t.Context(), s.image(w1))
	wantComplaint(t, err, "the image found write 1 of connection 1", "allowed: write 1 of connection 2")
}

func TestEachSectorIsItsOwnRegister(t *testing.T) {
	s := newScript(t)
	wide := s.add(operation{kind: write, writer: 1, value: valueOf(1, 1), first: 2, count: 4, call: 1, ret: 2, answered: true})
	s.add(operation{kind: write, writer: 1, value: valueOf(1, 2), first: 3, count: 1, call: 3, ret: 4, answered: true})
	r := s.add(operation{kind: read, writer: 2, first: 1, count: 6, call: 5, ret: 6, answered: true})
	r.found = []run{{zero, 1}, {wide.value, 1}, {valueOf(1, 2), 1}, {wide.value, 2}, {zero, 1}}
	if report := s.wantRight(); report.Sectors != 4 {
		t.Errorf("%+v", report)
	}
	r.found = []run{{zero, 1}, {wide.value, 4}, {zero, 1}}
	s.wantWrong("1 sectors", "sector 3 (byte 1536)", "allowed: write 2 of connection 1")
}

func TestErrorNamesAFewSectorsAndCountsTheRest(t *testing.T) {
	d := NewDisk(5000 * SectorSize)
	s := &script{t, d}
	s.add(operation{kind: write, writer: 1, value: valueOf(1, 1), count: 5000, call: 1, ret: 2, answered: true})
	r := s.add(operation{kind: read, writer: 1, count: 5000, call: 3, ret: 4, answered: true})
	r.found = []run{{zero, 5000}}
	_, err := s.check()
	wantComplaint(t, err, "5000 sectors", "and 4992 more sectors")
	if n := strings.Count(err.Error(), "\n"); n != maxComplaints+1 {
		t.Errorf("the complaint has %d lines", n)
	}
}

func TestCheckWithoutAVerdictIsAnError(t *testing.T) {
	s := newScript(t)
	s.write(1, 1, 1, 2)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Check(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want that the check did not end", err)
	}
}

func TestSearchWithoutAVerdictIsAnError(t *testing.T) {
	s := newScript(t)
	// Zeroings and writes that are all under way at once, and a read that none of
	// their orders explains: there are too many orders to try in a millisecond.
	for i := range 24 {
		s.write(i+1, 1, int64(i), 1000)
		s.zero(i+1, int64(i), 1000)
	}
	for i := range 24 {
		s.read(30, valueOf(24-i, 1), int64(100+2*i), int64(101+2*i))
		s.read(30, valueOf(i+1, 1), int64(200+2*i), int64(201+2*i))
	}
	ctx, cancel := context.WithDeadline(t.Context(), soon())
	defer cancel()
	_, err := s.Check(ctx, nil)
	wantComplaint(t, err, "no verdict on the 96 requests of sector 0")
}

func TestServedIsTheShortestExplanation(t *testing.T) {
	type answer struct {
		server    string
		call, ret int64
	}
	for _, c := range []struct {
		name    string
		answers []answer
		want    []string
	}{
		{"nobody", nil, nil},
		{"one", []answer{{"A", 1, 2}, {"A", 3, 4}}, []string{"A"}},
		{"moved", []answer{{"A", 1, 2}, {"A", 2, 6}, {"B", 5, 7}, {"B", 8, 9}}, []string{"A", "B"}},
		{"an answer that was read late", []answer{{"A", 1, 9}, {"B", 2, 5}, {"B", 6, 7}}, []string{"A", "B"}},
		{"moved back", []answer{{"A", 1, 2}, {"B", 3, 4}, {"A", 5, 6}}, []string{"A", "B", "A"}},
		{"both at once", []answer{{"A", 1, 2}, {"B", 1, 2}, {"A", 3, 4}, {"B", 3, 4}}, []string{"A", "B", "A"}},
		{"three", []answer{{"C", 1, 2}, {"A", 3, 4}, {"B", 5, 6}}, []string{"C", "A", "B"}},
	} {
		s := newScript(t)
		for _, a := range c.answers {
			s.add(operation{kind: write, writer: 1, value: valueOf(1, 1), call: a.call, ret: a.ret, answered: true, server: a.server})
		}
		if got := s.Served(); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
