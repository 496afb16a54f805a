// SPDX-License-Identifier: GPL-3.0-or-later

package export

import (
	"bytes"
	"errors"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

var errTest = errors.New("the store is told to fail")

// breakRule replaces the rule that decides whether a zeroing may set its bits.
func breakRule(t *testing.T, broken func(s *stripe, since uint64) bool) {
	rule := untouched
	untouched = broken
	t.Cleanup(func() { untouched = rule })
}

// stop is a place where calls of one kind wait until they are let go.
type stop struct {
	reached, release chan struct{}
	over             <-chan struct{} // the test has ended, perhaps without letting go
}

func newStop(t *testing.T) stop {
	return stop{make(chan struct{}), make(chan struct{}), t.Context().Done()}
}

// at returns a hook that stops the first call of op.
func (s stop) at(op string) func(call) {
	first := make(chan struct{}, 1)
	first <- struct{}{}
	return func(c call) {
		if c.op != op {
			return
		}
		select {
		case <-first:
			close(s.reached)
			select {
			case <-s.release:
			case <-s.over:
			}
		default:
		}
	}
}

// The races that the zero map has to survive. Each writes data into a block at
// a moment of its own choosing while something else learns that the block is
// zero, and returns the block's content as a client reads it, and as it is on
// the disk after the client has zeroed it by writing zeroes. It is lost when
// one differs from data, or the other from zeroes.
var races = map[string]func(t *testing.T) (read, zeroed []byte){
	"WriteWithinPunch":    writeWithinPunch,
	"WriteOverPunchStart": writeOverPunchStart,
	"WriteOverPunchEnd":   writeOverPunchEnd,
	"WriteWithinBuild":    writeWithinBuild,
	"WriteOverBuildStart": writeOverBuildStart,
	"WriteOverBuildEnd":   writeOverBuildEnd,
}

var (
	data     = filled(blockSize, 0xaa)
	noData   = make([]byte, blockSize)
	raceSize = int64(4 * regionSize)
)

// outcome ends a race.
func (c *client) outcome(s *testStore) (read, zeroed []byte) {
	read = c.content(0, blockSize)
	c.must(write(0, noData, 0))
	return read, s.bytes(0, blockSize)
}

// The punch takes effect; the write begins and ends; the punch returns.
func writeWithinPunch(t *testing.T) (read, zeroed []byte) {
	s, punch := newTestStore(raceSize), newStop(t)
	s.data[0] = 1
	s.after = punch.at("punch")
	e := serve(t, s)
	c, other := e.connect(t), e.connect(t)
	other.start(zero(0, blockSize, 0))
	<-punch.reached
	c.must(write(0, data, 0))
	close(punch.release)
	<-other.done
	return c.outcome(s)
}

// The write begins; the punch begins and takes effect; the write takes effect
// and ends; the punch returns.
func writeOverPunchStart(t *testing.T) (read, zeroed []byte) {
	s, punch, writing := newTestStore(raceSize), newStop(t), newStop(t)
	s.data[0] = 1
	s.before, s.after = writing.at("write"), punch.at("punch")
	e := serve(t, s)
	c, other := e.connect(t), e.connect(t)
	c.start(write(0, data, 0))
	<-writing.reached
	other.start(zero(0, blockSize, 0))
	<-punch.reached
	close(writing.release)
	<-c.done
	close(punch.release)
	<-other.done
	return c.outcome(s)
}

// The punch takes effect; the write begins; the punch returns; the write takes
// effect and ends.
func writeOverPunchEnd(t *testing.T) (read, zeroed []byte) {
	s, punch, writing := newTestStore(raceSize), newStop(t), newStop(t)
	s.data[0] = 1
	s.before, s.after = writing.at("write"), punch.at("punch")
	e := serve(t, s)
	c, other := e.connect(t), e.connect(t)
	other.start(zero(0, blockSize, 0))
	<-punch.reached
	c.start(write(0, data, 0))
	<-writing.reached
	close(punch.release)
	<-other.done
	close(writing.release)
	<-c.done
	return c.outcome(s)
}

// The same three, against the extents that the build asks for.
func writeWithinBuild(t *testing.T) (read, zeroed []byte) {
	s, look := newTestStore(raceSize), newStop(t)
	s.after = look.at("extents")
	e := serveUnbuilt(t, s)
	c := e.connect(t)
	<-look.reached
	c.must(write(0, data, 0))
	close(look.release)
	e.background.Wait()
	return c.outcome(s)
}

func writeOverBuildStart(t *testing.T) (read, zeroed []byte) {
	s, look, writing := newTestStore(raceSize), newStop(t), newStop(t)
	e := &Export{queues: map[*queue]struct{}{}, store: s, info: s.info, calls: t.Context(), zeros: newZeroMap(s.info.Size)}
	e.flusher = &flusher{store: s, ctx: t.Context()}
	s.before, s.after = writing.at("write"), look.at("extents")
	c := e.connect(t)
	c.start(write(0, data, 0))
	<-writing.reached
	e.background.Go(func() { e.build(t.Context()) }) // not before now
	<-look.reached
	close(writing.release)
	<-c.done
	close(look.release)
	e.background.Wait()
	return c.outcome(s)
}

func writeOverBuildEnd(t *testing.T) (read, zeroed []byte) {
	s, look, writing := newTestStore(raceSize), newStop(t), newStop(t)
	s.before, s.after = writing.at("write"), look.at("extents")
	e := serveUnbuilt(t, s)
	c := e.connect(t)
	<-look.reached
	c.start(write(0, data, 0))
	<-writing.reached
	close(look.release)
	e.background.Wait()
	close(writing.release)
	<-c.done
	return c.outcome(s)
}

func TestWriteThatMeetsAZeroingIsNeverLost(t *testing.T) {
	for name, race := range races {
		t.Run(name, func(t *testing.T) {
			read, zeroed := race(t)
			if !bytes.Equal(read, data) {
				t.Errorf("the write is lost: a client reads %x...", read[:4])
			}
			if !bytes.Equal(zeroed, noData) {
				t.Errorf("a write of zeroes was left out over data: the disk has %x...", zeroed[:4])
			}
		})
	}
}

// Without the rule, or without either half of it, the races do lose data.
func TestLossIsCaughtWhenTheRuleIsBroken(t *testing.T) {
	always := func(*stripe, uint64) bool { return true }
	onlyNote := func(_ *stripe, since uint64) bool { return since != writing }
	onlySeq := func(s *stripe, since uint64) bool { return since == writing || s.seq == since }
	for name, broken := range map[string][]func(*stripe, uint64) bool{
		"WriteWithinPunch":    {always, onlyNote},
		"WriteOverPunchStart": {always, onlySeq},
		"WriteOverPunchEnd":   {always, onlyNote},
		"WriteWithinBuild":    {always, onlyNote},
		"WriteOverBuildStart": {always, onlySeq},
		"WriteOverBuildEnd":   {always, onlyNote},
	} {
		for _, rule := range broken {
			t.Run(name, func(t *testing.T) {
				breakRule(t, rule)
				read, zeroed := races[name](t)
				if bytes.Equal(read, data) {
					t.Error("the rule is broken and yet a client reads the data: this race tests nothing")
				}
				if bytes.Equal(zeroed, noData) {
					t.Error("the rule is broken and yet the zeroes reached the disk: this race tests nothing")
				}
			})
		}
	}
}

// A write of zeroes that races a trim: once both have ended, the block may read
// as zeroes or as what the trim left, but clients and disk have to agree.
func TestZeroWriteThatMeetsATrimIsNotBelieved(t *testing.T) {
	s, trim := newTestStore(raceSize), newStop(t)
	s.data[blockSize] = 1 // or nothing would be left to trim
	s.before = trim.at("punch")
	e := serve(t, s)
	c, other := e.connect(t), e.connect(t)
	other.start(zero(0, 4*blockSize, store.Discard)) // clears all bits before it goes to the store
	<-trim.reached
	c.must(write(0, noData, 0)) // must go to the store, too
	if calls := s.took(); len(calls) != 1 || calls[0].op != "write" {
		t.Fatalf("a write of zeroes was left out while a trim was under way: %v", calls)
	}
	close(trim.release)
	<-other.done
	if got := c.content(0, blockSize); !bytes.Equal(got, s.bytes(0, blockSize)) {
		t.Fatalf("a client reads %x..., the disk has %x...", got[:4], s.data[:4])
	}
	c.must(write(0, noData, 0))
	if got := s.bytes(0, blockSize); !bytes.Equal(got, noData) {
		t.Fatalf("the trim's leavings %x... outlived a write of zeroes", got[:4])
	}
}

func TestFailedZeroingIsNotBelieved(t *testing.T) {
	s := newTestStore(raceSize)
	e := serve(t, s)
	c := e.connect(t)
	c.must(write(0, data, 0))
	s.fail("punch", errTest)
	if err := c.do(zero(0, 4*blockSize, 0)); err == nil {
		t.Fatal("the error was lost")
	}
	if e.zeros.maybeZero(0, 4*blockSize) {
		t.Fatal("bits are set where a zeroing failed")
	}
	if got := c.content(0, blockSize); !bytes.Equal(got, data) {
		t.Fatalf("a client reads %x...", got[:4])
	}
}

// A failed zeroing raises seq, so that one which was under way at the same time
// does not set the bits that the failure has cleared.
func TestZeroingDoesNotOutlastTheFailureOfAnother(t *testing.T) {
	z := newZeroMap(raceSize)
	var t1, t2 token
	z.beginZero(&t1, 0, blockSize)
	z.beginZero(&t2, 0, blockSize)
	z.failZero(0, blockSize)
	z.endZero(&t2, 0, 0, blockSize)
	if z.knownZero(0, blockSize) {
		t.Fatal("known to be zero after a failure")
	}
}

func TestZeroingsDoNotDisturbEachOther(t *testing.T) {
	s, punch := newTestStore(raceSize), newStop(t)
	copy(s.data, filled(4*blockSize, 1))
	s.after = punch.at("punch")
	e := serve(t, s)
	c, other := e.connect(t), e.connect(t)
	other.start(zero(0, 3*blockSize, 0))
	<-punch.reached
	c.must(zero(blockSize, 3*blockSize, 0))
	close(punch.release)
	<-other.done
	if !e.zeros.knownZero(0, 4*blockSize) {
		t.Fatal("overlapping zeroings left bits clear")
	}
}

func TestWriteClearsItsBitsBeforeItIsIssued(t *testing.T) {
	s, writing := newTestStore(raceSize), newStop(t)
	s.before = writing.at("write")
	e := serve(t, s)
	c := e.connect(t)
	if !e.zeros.knownZero(0, raceSize) {
		t.Fatal("an empty disk is not known to be zero")
	}
	c.start(write(100, []byte{1}, 0))
	<-writing.reached
	if e.zeros.knownZero(0, blockSize) || !e.zeros.knownZero(blockSize, raceSize-blockSize) {
		t.Fatal("the wrong bits are clear")
	}
	close(writing.release)
	if r := <-c.done; r.Op != wire.OpWrite || r.Err != nil {
		t.Fatal(r.Err)
	}
}
