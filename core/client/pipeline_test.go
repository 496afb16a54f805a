// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flexnbd/flexnbd/core/nbd"
)

const pipelineFlags = testFlags | nbd.FlagSendWriteZeroes | nbd.FlagSendTrim

// ledger makes calls and remembers how each of them ended.
type ledger struct {
	t     *testing.T
	mu    sync.Mutex
	ends  map[*Call][]error
	ended sync.WaitGroup
}

func newLedger(t *testing.T) *ledger { return &ledger{t: t, ends: map[*Call][]error{}} }

func (l *ledger) call(cmd nbd.Command, off uint64, n uint32) *Call {
	c := &Call{Request: nbd.Request{Command: cmd, Offset: off, Length: n}}
	if cmd == nbd.CmdWrite {
		c.Payload = pattern(int(n))
	}
	l.ended.Add(1)
	c.Done = func(err error) {
		l.mu.Lock()
		l.ends[c] = append(l.ends[c], err)
		l.mu.Unlock()
		l.ended.Done() // panics when there are more than calls
	}
	return c
}

// flood sends more writes than sockets hold, all of the same data.
func (l *ledger) flood(p *Pipeline) {
	data := make([]byte, 1<<20)
	for i := range uint64(64) {
		c := l.call(nbd.CmdWrite, i<<20, 0)
		c.Request.Length, c.Payload = uint32(len(data)), data
		p.Send(c)
	}
}

// of returns how a call has ended, which has to be once.
func (l *ledger) of(c *Call) error {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.ends[c]) != 1 {
		l.t.Fatalf("%v at %d: Done was called %d times: %v", c.Request.Command, c.Request.Offset, len(l.ends[c]), l.ends[c])
	}
	return l.ends[c][0]
}

// request reads a request's header, and its payload.
func (s *script) request() (nbd.Request, []byte, error) {
	var b [nbd.RequestSize]byte
	if _, err := io.ReadFull(s, b[:]); err != nil {
		return nbd.Request{}, nil, err
	}
	req, err := nbd.DecodeRequest(b[:])
	if err != nil || req.Command != nbd.CmdWrite {
		return req, nil, err
	}
	data := make([]byte, req.Length)
	_, err = io.ReadFull(s, data)
	return req, data, err
}

// requests reads n of them and checks the data of writes.
func (s *script) requests(n int) []nbd.Request {
	var all []nbd.Request
	for range n {
		req, data, err := s.request()
		if err != nil || !bytes.Equal(data, pattern(len(data))) {
			s.t.Errorf("server: got %+v with wrong data or %v", req, err)
			return all
		}
		all = append(all, req)
	}
	return all
}

// wantGoodbye checks that a DISC comes, and nothing after it.
func (s *script) wantGoodbye() {
	s.t.Helper()
	req, _, err := s.request()
	if err != nil || req.Command != nbd.CmdDisc {
		s.t.Errorf("server: got %+v, %v where DISC should be", req, err)
	}
	s.wantEnd()
}

func TestRepliesInAnyOrderReachTheirCalls(t *testing.T) {
	for name, dial := range map[string]func(*testing.T, func(*script)) net.Conn{"pipe": play, "TCP": playTCP} {
		t.Run(name, func(t *testing.T) {
			const n = 100
			p := connect(t, dial(t, func(s *script) {
				s.open(1<<20, pipelineFlags)
				got := s.requests(n)
				slices.Reverse(got)
				var replies []byte
				for _, req := range got {
					errno := nbd.Errno(0)
					if req.Offset%3 == 0 {
						errno = nbd.ENOSPC
					}
					replies = nbd.AppendSimpleReply(replies, errno, req.Cookie)
				}
				s.say(replies)
				s.wantGoodbye()
			})).Pipeline(PipelineOptions{})
			l := newLedger(t)
			var calls []*Call
			for i := range uint64(n) {
				calls = append(calls, l.call([]nbd.Command{nbd.CmdWrite, nbd.CmdWriteZeroes, nbd.CmdTrim}[i%3], i*7, 100))
			}
			p.Send(calls[:50]...)
			p.Send(calls[50:]...)
			if err := p.Disconnect(t.Context()); err != nil {
				t.Error(err)
			}
			for _, c := range calls {
				var want error
				if c.Request.Offset%3 == 0 {
					want = nbd.ENOSPC
				}
				if got := l.of(c); !errors.Is(got, want) {
					t.Errorf("at %d: got %v, want %v", c.Request.Offset, got, want)
				}
			}
		})
	}
}

// A memory disk, carried out in the order of arrival and answered in disorder, must
// in the end hold what was sent.
func TestThousandsOfCallsFromManyGoroutines(t *testing.T) {
	const senders, each, block = 8, 500, 512
	disk := make([]byte, senders*each*block)
	p := connect(t, playTCP(t, func(s *script) {
		s.open(uint64(len(disk)), pipelineFlags)
		var held []uint64
		for range senders * each {
			req, data, err := s.request()
			if err != nil {
				t.Errorf("server: %v", err)
				return
			}
			copy(disk[req.Offset:], data)
			held = append(held, req.Cookie)
			for len(held) > 20 || len(held) > 0 && rand.IntN(4) == 0 {
				i := rand.IntN(len(held))
				s.say(nbd.AppendSimpleReply(nil, 0, held[i]))
				held = slices.Delete(held, i, i+1)
			}
		}
		for _, cookie := range held {
			s.say(nbd.AppendSimpleReply(nil, 0, cookie))
		}
		s.wantGoodbye()
	})).Pipeline(PipelineOptions{})
	l := newLedger(t)
	var wg sync.WaitGroup
	for i := range senders {
		wg.Go(func() {
			for j := range each {
				p.Send(l.call(nbd.CmdWrite, uint64((i*each+j)*block), block))
			}
		})
	}
	wg.Wait()
	l.ended.Wait()
	if err := p.Disconnect(t.Context()); err != nil {
		t.Error(err)
	}
	for c := range l.ends {
		if err := l.of(c); err != nil {
			t.Fatal(err)
		}
	}
	for off := 0; off < len(disk); off += block {
		if !bytes.Equal(disk[off:off+block], pattern(block)) {
			t.Fatalf("at %d the disk does not hold what was sent", off)
		}
	}
}

func TestDoneMaySendTheCallAgain(t *testing.T) {
	const rounds = 50
	p := connect(t, play(t, func(s *script) {
		s.open(1<<20, pipelineFlags)
		for range rounds {
			for _, req := range s.requests(1) {
				s.say(nbd.AppendSimpleReply(nil, 0, req.Cookie))
			}
		}
		s.wantGoodbye()
	})).Pipeline(PipelineOptions{})
	done := make(chan error)
	round := 0
	c := &Call{Request: nbd.Request{Command: nbd.CmdFlush}}
	c.Done = func(err error) {
		if round++; round < rounds && err == nil {
			p.Send(c)
			return
		}
		done <- err
	}
	p.Send(c)
	if err := <-done; err != nil || round != rounds {
		t.Errorf("after %d rounds: %v", round, err)
	}
	if err := p.Disconnect(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestSilentServerIsCutAfterTenSeconds(t *testing.T) {
	for name, server := range map[string]func(s *script){
		"reads no more": func(*script) {},
		"reads all":     func(s *script) { s.drain() },
		"half a reply": func(s *script) {
			req := s.requests(1)[0]
			s.say(nbd.AppendSimpleReply(nil, 0, req.Cookie)[:15])
			s.drain()
		},
		"refuses and does not take the rest": func(s *script) {
			var b [nbd.RequestSize]byte
			_, _ = io.ReadFull(s, b[:])
			req, _ := nbd.DecodeRequest(b[:])
			s.say(nbd.AppendSimpleReply(nil, nbd.ENOSPC, req.Cookie))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stop := make(chan struct{})
				p := connect(t, play(t, func(s *script) {
					s.open(1<<20, pipelineFlags)
					server(s)
					<-stop
				})).Pipeline(PipelineOptions{})
				l := newLedger(t)
				calls := []*Call{l.call(nbd.CmdWrite, 0, 4096), l.call(nbd.CmdWriteZeroes, 0, 4096)}
				begin := time.Now()
				p.Send(calls...)
				<-p.Broken()
				if took := time.Since(begin); took != 10*time.Second {
					t.Errorf("cut after %v", took)
				}
				l.ended.Wait()
				last := l.of(calls[1])
				if !errors.Is(last, os.ErrDeadlineExceeded) || !strings.Contains(last.Error(), "said nothing for 10s") || !errors.Is(p.Err(), last) {
					t.Errorf("got %v, %v", last, p.Err())
				}
				if first := l.of(calls[0]); !errors.Is(first, last) && !errors.Is(first, nbd.ENOSPC) {
					t.Errorf("got %v", first)
				}
				if err := p.Disconnect(t.Context()); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("disconnecting: %v", err)
				}
				close(stop)
			})
		})
	}
}

func TestServerThatStopsReadingTCPIsCut(t *testing.T) {
	stop := make(chan struct{})
	p := connect(t, playTCP(t, func(s *script) {
		s.open(1<<30, pipelineFlags)
		<-stop
	})).Pipeline(PipelineOptions{ReplyTimeout: 50 * time.Millisecond})
	defer close(stop)
	l := newLedger(t)
	l.flood(p)
	l.ended.Wait()
	for c := range l.ends {
		if err := l.of(c); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
	}
	p.Close()
}

func TestFlushMayTakeLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := make(chan struct{})
		p := connect(t, play(t, func(s *script) {
			_ = s.SetDeadline(time.Time{})
			s.open(1<<20, pipelineFlags)
			for _, req := range s.requests(2) {
				time.Sleep(3 * time.Minute)
				s.say(nbd.AppendSimpleReply(nil, 0, req.Cookie))
			}
			s.drain()
			<-stop
		})).Pipeline(PipelineOptions{})
		defer p.Close()
		defer close(stop)
		l := newLedger(t)
		write, flush := l.call(nbd.CmdWriteZeroes, 0, 4096), l.call(nbd.CmdFlush, 0, 0)
		p.Send(write, flush)
		l.ended.Wait()
		if l.of(write) != nil || l.of(flush) != nil {
			t.Errorf("got %v and %v", l.of(write), l.of(flush))
		}
		again, begin := l.call(nbd.CmdWriteZeroes, 0, 4096), time.Now()
		p.Send(again)
		l.ended.Wait()
		if took := time.Since(begin); took != 10*time.Second || !errors.Is(l.of(again), os.ErrDeadlineExceeded) {
			t.Errorf("without a flush: %v after %v", l.of(again), took)
		}
	})
}

func TestSlowButLivelyServerIsNotCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := connect(t, play(t, func(s *script) {
			_ = s.SetDeadline(time.Time{})
			s.open(1<<20, pipelineFlags)
			for _, req := range s.requests(5) {
				time.Sleep(9 * time.Second)
				s.say(nbd.AppendSimpleReply(nil, 0, req.Cookie))
			}
			// Nothing is asked for a minute; then the time starts anew.
			for _, req := range s.requests(1) {
				time.Sleep(9 * time.Second)
				s.say(nbd.AppendSimpleReply(nil, 0, req.Cookie))
			}
			s.wantGoodbye()
		})).Pipeline(PipelineOptions{})
		l := newLedger(t)
		send := func(n int) {
			for range n {
				c := l.call(nbd.CmdWriteZeroes, 0, 4096)
				p.Send(c)
			}
			l.ended.Wait()
		}
		send(5)
		time.Sleep(time.Minute)
		send(1)
		if err := p.Disconnect(t.Context()); err != nil {
			t.Error(err)
		}
		for c := range l.ends {
			if err := l.of(c); err != nil {
				t.Error(err)
			}
		}
	})
}

// While a payload is being sent it must not be given back, whatever the server says.
func TestPayloadIsNotGivenBackBeforeItIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan struct{})
		p := connect(t, play(t, func(s *script) {
			s.open(1<<20, pipelineFlags)
			var b [nbd.RequestSize]byte
			_, _ = io.ReadFull(s, b[:])
			req, _ := nbd.DecodeRequest(b[:])
			s.say(nbd.AppendSimpleReply(nil, nbd.ENOSPC, req.Cookie))
			<-goOn
			s.want(pattern(4096))
			for _, req := range s.requests(1) {
				s.say(nbd.AppendSimpleReply(nil, 0, req.Cookie))
			}
			s.wantGoodbye()
		})).Pipeline(PipelineOptions{})
		l := newLedger(t)
		write, flush := l.call(nbd.CmdWrite, 0, 4096), l.call(nbd.CmdFlush, 0, 0)
		p.Send(write, flush)
		synctest.Wait()
		if len(l.ends) != 0 {
			t.Error("Done was called while the payload was being sent")
		}
		close(goOn)
		if err := p.Disconnect(t.Context()); err != nil {
			t.Error(err)
		}
		if !errors.Is(l.of(write), nbd.ENOSPC) || l.of(flush) != nil {
			t.Errorf("got %v, %v", l.of(write), l.of(flush))
		}
	})
}

func TestSuccessOfHalfARequestIsNotBelieved(t *testing.T) {
	p := connect(t, play(t, func(s *script) {
		s.open(1<<20, pipelineFlags)
		var b [nbd.RequestSize + 100]byte
		_, _ = io.ReadFull(s, b[:])
		req, _ := nbd.DecodeRequest(b[:])
		s.say(nbd.AppendSimpleReply(nil, 0, req.Cookie))
	})).Pipeline(PipelineOptions{})
	l := newLedger(t)
	write := l.call(nbd.CmdWrite, 0, 4096)
	p.Send(write)
	l.ended.Wait()
	if err := l.of(write); err == nil || !errors.Is(err, p.Err()) {
		t.Errorf("got %v, %v", err, p.Err())
	}
	p.Close()
}

func TestRepliesGivenBeforeTheServerLeftCount(t *testing.T) {
	p := connect(t, playTCP(t, func(s *script) {
		s.open(1<<30, pipelineFlags)
		for _, req := range s.requests(1) {
			s.say(nbd.AppendSimpleReply(nil, nbd.ESHUTDOWN, req.Cookie))
		}
		_ = s.Conn.(*net.TCPConn).CloseWrite()
		s.skip(1 << 20) // of what comes without end
	})).Pipeline(PipelineOptions{})
	l := newLedger(t)
	first := l.call(nbd.CmdFlush, 0, 0)
	p.Send(first)
	l.flood(p)
	l.ended.Wait()
	if err := l.of(first); !errors.Is(err, nbd.ESHUTDOWN) {
		t.Errorf("got %v", err)
	}
	if p.Err() == nil {
		t.Error("the pipeline is not broken")
	}
	p.Close()
}

func TestMoreCallsThanTheTableHoldsWait(t *testing.T) {
	p := connect(t, playTCP(t, func(s *script) {
		s.open(1<<20, pipelineFlags)
		got := s.requests(maxInFlight)
		// Nothing more comes until there is room.
		_ = s.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if n, err := s.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %d bytes, %v where the client should wait", n, err)
		}
		_ = s.SetReadDeadline(time.Now().Add(patience))
		for range 2 {
			for _, req := range got {
				s.say(nbd.AppendSimpleReply(nil, 0, req.Cookie))
			}
			got = s.requests(min(100, len(got)))
			if len(got) < 100 {
				return
			}
		}
		for _, req := range got {
			s.say(nbd.AppendSimpleReply(nil, 0, req.Cookie))
		}
		s.wantGoodbye()
	})).Pipeline(PipelineOptions{})
	l := newLedger(t)
	var calls []*Call
	for range maxInFlight + 200 {
		calls = append(calls, l.call(nbd.CmdFlush, 0, 0))
	}
	p.Send(calls...)
	if err := p.Disconnect(t.Context()); err != nil {
		t.Error(err)
	}
	for _, c := range calls {
		if err := l.of(c); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRepliesNobodyAskedForBreakThePipeline(t *testing.T) {
	const cookie = 1 << 32 // of the first request
	ok := nbd.AppendSimpleReply(nil, 0, cookie)
	for name, c := range map[string]struct {
		says []byte
		want string
	}{
		"unknown slot":       {nbd.AppendSimpleReply(nil, 0, cookie+1), "0x100000001, which is not in flight"},
		"slot of the future": {nbd.AppendSimpleReply(nil, 0, 1<<32-1), "not in flight"},
		"earlier use":        {nbd.AppendSimpleReply(nil, 0, 0), "not in flight"},
		"twice":              {slices.Concat(ok, ok), "not in flight"},
		"structured":         {nbd.AppendNoneChunk(nil, cookie), "66 8e 33 ef"},
		"garbage":            {[]byte("HTTP/1.1 400 Bad Request"), "48 54 54 50"},
		"closes":             {nil, "closed the connection with 1 requests unanswered"},
		"half a reply":       {ok[:9], "before the end of a reply"},
	} {
		t.Run(name, func(t *testing.T) {
			p := connect(t, play(t, func(s *script) {
				s.open(1<<20, pipelineFlags)
				s.requests(1)
				s.tell(c.says)
			})).Pipeline(PipelineOptions{})
			l := newLedger(t)
			flush := l.call(nbd.CmdFlush, 0, 0)
			p.Send(flush)
			<-p.Broken()
			if err := p.Err(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
			l.ended.Wait()
			if err := l.of(flush); !errors.Is(err, p.Err()) && name != "twice" {
				t.Errorf("the call got %v", err)
			}
			late := l.call(nbd.CmdFlush, 0, 0)
			p.Send(late)
			if !errors.Is(l.of(late), p.Err()) {
				t.Errorf("a later call got %v", l.of(late))
			}
			p.Close()
		})
	}
}

func TestCallsThatMayNotBeSentAreRefused(t *testing.T) {
	const size = 4 << 20
	sizes := nbd.BlockSizes{Minimum: 512, Preferred: 4096, MaxPayload: 1 << 20}
	open := func(flags nbd.TransmissionFlags, sizes ...nbd.BlockSizes) *Pipeline {
		return connect(t, play(t, func(s *script) {
			s.open(size, flags, sizes...)
			s.wantGoodbye()
		})).Pipeline(PipelineOptions{})
	}
	rich, strict := open(pipelineFlags), open(pipelineFlags, sizes)
	poor, readOnly := open(nbd.FlagHasFlags), open(pipelineFlags|nbd.FlagReadOnly)
	payload := func(c *Call, n int) *Call { c.Payload = make([]byte, n); return c }
	flags := func(c *Call, f nbd.CommandFlags) *Call { c.Request.Flags = f; return c }
	l := newLedger(t)
	for name, c := range map[string]struct {
		p    *Pipeline
		call *Call
		want error
	}{
		"READ":                     {rich, l.call(nbd.CmdRead, 0, 512), errBadCall},
		"ENTRUST to newstyle":      {rich, flags(l.call(nbd.CmdEntrust, 0, 0), nbd.CmdFlagsEntrust), errBadCall},
		"DISC":                     {rich, l.call(nbd.CmdDisc, 0, 0), errBadCall},
		"CACHE":                    {rich, l.call(nbd.CmdCache, 0, 512), errBadCall},
		"short payload":            {rich, payload(l.call(nbd.CmdWrite, 0, 512), 511), errBadCall},
		"payload of a FLUSH":       {rich, payload(l.call(nbd.CmdFlush, 0, 0), 1), errBadCall},
		"FLUSH of a range":         {rich, l.call(nbd.CmdFlush, 0, 512), errBadCall},
		"FLUSH with FUA":           {rich, flags(l.call(nbd.CmdFlush, 0, 0), nbd.CmdFlagFUA), errBadCall},
		"WRITE with NO_HOLE":       {rich, flags(l.call(nbd.CmdWrite, 0, 512), nbd.CmdFlagNoHole), errBadCall},
		"FAST_ZERO not offered":    {rich, flags(l.call(nbd.CmdWriteZeroes, 0, 512), nbd.CmdFlagFastZero), ErrUnsupported},
		"behind the end":           {rich, l.call(nbd.CmdWriteZeroes, size-511, 512), ErrOutOfRange},
		"offset wraps":             {rich, l.call(nbd.CmdWrite, 1<<64-1, 512), ErrOutOfRange},
		"PREPARE without a hello":  {rich, l.call(nbd.CmdPrepare, 0, 0), ErrUnsupported},
		"COMMIT without a hello":   {rich, l.call(nbd.CmdCommit, 0, 0), ErrUnsupported},
		"not aligned":              {strict, l.call(nbd.CmdWriteZeroes, 1, 512), ErrUnsupported},
		"longer than the maximum":  {strict, l.call(nbd.CmdWrite, 0, 1<<20+512), ErrUnsupported},
		"FLUSH not offered":        {poor, l.call(nbd.CmdFlush, 0, 0), ErrUnsupported},
		"WRITE_ZEROES not offered": {poor, l.call(nbd.CmdWriteZeroes, 0, 512), ErrUnsupported},
		"TRIM not offered":         {poor, l.call(nbd.CmdTrim, 0, 512), ErrUnsupported},
		"FUA not offered":          {poor, flags(l.call(nbd.CmdWrite, 0, 512), nbd.CmdFlagFUA), ErrUnsupported},
		"read-only WRITE":          {readOnly, l.call(nbd.CmdWrite, 0, 512), ErrReadOnly},
		"read-only WRITE_ZEROES":   {readOnly, l.call(nbd.CmdWriteZeroes, 0, 512), ErrReadOnly},
		"read-only TRIM":           {readOnly, l.call(nbd.CmdTrim, 0, 512), ErrReadOnly},
	} {
		c.p.Send(c.call)
		var req *RequestError
		if err := l.of(c.call); !errors.Is(err, c.want) || !errors.As(err, &req) || req.Command != c.call.Request.Command {
			t.Errorf("%s: got %v", name, err)
		}
	}
	empty := l.call(nbd.CmdWrite, size, 0)
	rich.Send(empty)
	if err := l.of(empty); err != nil {
		t.Errorf("no bytes: %v", err)
	}
	for _, p := range []*Pipeline{rich, strict, poor, readOnly} {
		if err := p.Disconnect(t.Context()); err != nil {
			t.Errorf("a refusal has broken the pipeline: %v", err)
		}
	}
}

func TestZeroesMayBeLongerThanAnyPayload(t *testing.T) {
	const size = 8 << 30
	p := connect(t, play(t, func(s *script) {
		s.open(size, pipelineFlags, nbd.BlockSizes{Minimum: 1, Preferred: 512, MaxPayload: 1 << 20})
		for _, req := range s.requests(2) {
			if req.Length != 1<<32-1 {
				t.Errorf("got %+v", req)
			}
			s.say(nbd.AppendSimpleReply(nil, 0, req.Cookie))
		}
		s.wantGoodbye()
	})).Pipeline(PipelineOptions{})
	l := newLedger(t)
	zero, trim := l.call(nbd.CmdWriteZeroes, 0, 1<<32-1), l.call(nbd.CmdTrim, 1, 1<<32-1)
	p.Send(zero, trim)
	if err := p.Disconnect(t.Context()); err != nil || l.of(zero) != nil || l.of(trim) != nil {
		t.Errorf("got %v, %v, %v", err, l.of(zero), l.of(trim))
	}
}

func TestClosingTellsEveryCall(t *testing.T) {
	for _, dial := range []func(*testing.T, func(*script)) net.Conn{play, playTCP} {
		got := make(chan struct{})
		p := connect(t, dial(t, func(s *script) {
			s.open(1<<30, pipelineFlags)
			s.requests(1)
			close(got)
			s.drain()
		})).Pipeline(PipelineOptions{})
		l := newLedger(t)
		for i := range uint64(100) {
			p.Send(l.call(nbd.CmdWrite, i<<16, 1<<16))
		}
		<-got
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { p.Close() })
		}
		wg.Wait()
		for c := range l.ends {
			if err := l.of(c); !errors.Is(err, errPipelineClosed) {
				t.Fatalf("got %v", err)
			}
		}
		if len(l.ends) != 100 || !errors.Is(p.Err(), errPipelineClosed) {
			t.Errorf("%d calls were told; %v", len(l.ends), p.Err())
		}
		if err := p.Disconnect(t.Context()); !errors.Is(err, errPipelineClosed) {
			t.Errorf("disconnecting afterwards: %v", err)
		}
	}
}

func TestDisconnectWaitsForReplies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := make(chan struct{})
		p := connect(t, play(t, func(s *script) {
			s.open(1<<20, pipelineFlags)
			got := s.requests(1)
			<-answer
			for _, req := range got {
				s.say(nbd.AppendSimpleReply(nil, 0, req.Cookie))
			}
			s.wantGoodbye()
		})).Pipeline(PipelineOptions{})
		l := newLedger(t)
		flush := l.call(nbd.CmdFlush, 0, 0)
		p.Send(flush)
		left := make(chan error, 2)
		for range 2 {
			go func() { left <- p.Disconnect(t.Context()) }()
		}
		synctest.Wait()
		late := l.call(nbd.CmdFlush, 0, 0)
		p.Send(late)
		if len(left) != 0 || !errors.Is(l.of(late), errDisconnected) {
			t.Errorf("disconnected: %d; a call meanwhile: %v", len(left), l.of(late))
		}
		close(answer)
		for range 2 {
			if err := <-left; err != nil {
				t.Error(err)
			}
		}
		if l.of(flush) != nil {
			t.Error(l.of(flush))
		}
	})
}

func TestDisconnectEndsWithItsContext(t *testing.T) {
	p := connect(t, play(t, func(s *script) {
		s.open(1<<20, pipelineFlags)
		s.drain()
	})).Pipeline(PipelineOptions{})
	l := newLedger(t)
	flush := l.call(nbd.CmdFlush, 0, 0)
	p.Send(flush)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Disconnect(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := l.of(flush); !errors.Is(err, context.Canceled) {
		t.Errorf("the call got %v", err)
	}
}

func TestPipelineHasTheConnectionForItself(t *testing.T) {
	c := connect(t, play(t, func(s *script) {
		s.open(1<<20, pipelineFlags)
		s.drain()
	}))
	p := c.Pipeline(PipelineOptions{})
	if err := c.Flush(t.Context()); !errors.Is(err, errPipelined) {
		t.Errorf("the client's own flush: %v", err)
	}
	if err := c.Disconnect(); err != nil {
		t.Error(err)
	}
	second := c.Pipeline(PipelineOptions{})
	l := newLedger(t)
	flush := l.call(nbd.CmdFlush, 0, 0)
	second.Send(flush)
	if !errors.Is(l.of(flush), errPipelined) || second.Close() != nil {
		t.Errorf("a second pipeline: %v", l.of(flush))
	}
	c.Close()
	<-p.Broken()
	p.Close()
}

func TestCallSentTwiceIsABug(t *testing.T) {
	p := connect(t, play(t, func(s *script) {
		s.open(1<<20, pipelineFlags)
		s.drain()
	})).Pipeline(PipelineOptions{})
	defer p.Close()
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	c := newLedger(t).call(nbd.CmdFlush, 0, 0)
	p.Send(c, c)
}
