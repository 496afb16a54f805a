// SPDX-License-Identifier: GPL-3.0-or-later

package load

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/core/session"
	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testSize = 8 << 20
	moment   = 20 * time.Millisecond
)

// filled is a disk with the content that the load expects.
func filled(t testing.TB) store.Store {
	t.Helper()
	s := memstore.New(testSize)
	content := make([]byte, testSize)
	Fill(content, 0)
	if err := s.WriteAt(t.Context(), content, 0, 0); err != nil {
		t.Fatal(err)
	}
	return s
}

// serve serves the disk with real sessions, and returns the address.
func serve(t testing.TB, s store.Store, style session.Handshake) string {
	t.Helper()
	e, err := export.Open(context.Background(), s, export.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close(context.Background()) })
	return accept(t, func(conn net.Conn) {
		err := session.Serve(context.Background(), conn, session.Config{Export: e, Handshake: style, Log: hclog.NewNullLogger()})
		if err != nil {
			t.Logf("session: %v", err)
		}
	})
}

// accept calls handle with every connection to the address that it returns.
func accept(t testing.TB, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { handle(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	return l.Addr().String()
}

func connect(t testing.TB, address string, w Workload, o Options) *Client {
	t.Helper()
	c, err := Open(t.Context(), address, w, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestEveryWorkloadIsAnsweredAndVerified(t *testing.T) {
	for name, w := range map[string]Workload{
		"alone":                       {Connections: 1, Depth: 1, Block: 4096, Reads: 100},
		"random reads":                {Connections: 1, Depth: 32, Block: 4096, Reads: 100},
		"random writes":               {Connections: 1, Depth: 32, Block: 4096, Reads: 0},
		"mixed":                       {Connections: 2, Depth: 32, Block: 4096, Reads: 70},
		"connections":                 {Connections: 4, Depth: 16, Block: 4096, Reads: 100},
		"long reads":                  {Connections: 1, Depth: 4, Block: 1 << 20, Reads: 100, Sequential: true},
		"long writes":                 {Connections: 1, Depth: 4, Block: 1 << 20, Reads: 0, Sequential: true},
		"long mixed":                  {Connections: 1, Depth: 8, Block: 512 << 10, Reads: 50},
		"block is not a power of two": {Connections: 1, Depth: 3, Block: 12288, Reads: 50, Sequential: true},
	} {
		for style, o := range map[string]Options{"simple": {}, "structured": {Structured: true}, "oldstyle": {}} {
			t.Run(name+"/"+style, func(t *testing.T) {
				handshake := session.Newstyle
				if style == "oldstyle" {
					handshake = session.Oldstyle
				}
				c := connect(t, serve(t, filled(t), handshake), w, o)
				if c.Structured() != o.Structured {
					t.Fatalf("structured replies: %v, asked for %v", c.Structured(), o.Structured)
				}
				for round := range uint64(2) { // connections are of use again
					r, err := c.Run(t.Context(), moment, round, true)
					if err != nil {
						t.Fatal(err)
					}
					if r.Requests == 0 || r.All < r.Requests || r.All > r.Requests+uint64(w.Connections*w.Depth) {
						t.Errorf("%d requests in time, %d in all", r.Requests, r.All)
					}
					if r.Rate <= 0 || r.Latency.Count() != r.All || r.CPU <= 0 {
						t.Errorf("rate %v, %d latencies of %d requests, CPU time %v", r.Rate, r.Latency.Count(), r.All, r.CPU)
					}
				}
			})
		}
	}
}

// seen records what reaches a store.
type seen struct {
	store.Store
	mu    sync.Mutex
	reads []int64
}

func (s *seen) ReadAt(ctx context.Context, p []byte, off int64) error {
	s.mu.Lock()
	s.reads = append(s.reads, off)
	s.mu.Unlock()
	return s.Store.ReadAt(ctx, p, off)
}

// served returns what was read, in order.
func (s *seen) served() []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads
}

func (s *seen) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	want := make([]byte, len(p))
	Fill(want, uint64(off))
	if !bytes.Equal(p, want) {
		return errors.New("not the disk's content")
	}
	return s.Store.WriteAt(ctx, p, off, flags)
}

func TestSequentialReadsGoThroughTheDiskInOrder(t *testing.T) {
	s := &seen{Store: filled(t)}
	c := connect(t, serve(t, s, session.Newstyle), Workload{Connections: 1, Depth: 1, Block: 1 << 20, Reads: 100, Sequential: true}, Options{})
	reads := s.served()
	for ; len(reads) <= 8; reads = s.served() { // until they wrap around
		if _, err := c.Run(t.Context(), moment, 0, true); err != nil {
			t.Fatal(err)
		}
	}
	for i, off := range reads {
		if want := int64(i<<20) % testSize; off != want {
			t.Fatalf("read %d is at %d, want %d", i, off, want)
		}
	}
}

func TestSameSeedAsksForTheSameOffsets(t *testing.T) {
	var runs [3][]int64
	for i, seed := range []uint64{7, 7, 8} {
		s := &seen{Store: filled(t)}
		c := connect(t, serve(t, s, session.Newstyle), Workload{Connections: 1, Depth: 1, Block: 4096, Reads: 100}, Options{})
		if _, err := c.Run(t.Context(), moment, seed, true); err != nil {
			t.Fatal(err)
		}
		runs[i] = s.served()
	}
	// As far as both got. The first offsets alone differ by all odds: there are 2048.
	same := func(a, b []int64) bool {
		n := min(len(a), len(b))
		return slices.Equal(a[:n], b[:n])
	}
	if !same(runs[0], runs[1]) || same(runs[0], runs[2]) {
		t.Errorf("seeds 7, 7 and 8 lead to\n%v\n%v\n%v", runs[0], runs[1], runs[2])
	}
}

func TestMixedWorkloadHasItsShareOfReads(t *testing.T) {
	c := newChooser(Workload{Connections: 1, Depth: 1, Block: 4096, Reads: 70}, testSize, 0)
	c.seed(1)
	const n = 10000
	reads := 0
	for range n {
		if cmd, off := c.next(); cmd == nbd.CmdRead {
			reads++
		} else if cmd != nbd.CmdWrite || off%4096 != 0 || off >= testSize {
			t.Fatalf("%v at %d", cmd, off)
		}
	}
	if reads < 0.68*n || reads > 0.72*n {
		t.Errorf("%d of %d requests are reads", reads, n)
	}
}

func TestWrongDataIsNoticed(t *testing.T) {
	one := Workload{Connections: 1, Depth: 4, Block: 8192, Reads: 100, Sequential: true}
	for name, c := range map[string]struct {
		at     int64
		verify bool
	}{
		"stamp, not verified": {4 * PageSize, false},
		"stamp, verified":     {5*PageSize + 7, true},
		"noise, verified":     {6*PageSize + 4095, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := filled(t)
			var b [1]byte
			if err := errors.Join(s.ReadAt(t.Context(), b[:], c.at), s.WriteAt(t.Context(), []byte{^b[0]}, c.at, 0)); err != nil {
				t.Fatal(err)
			}
			client := connectQuietly(t, serve(t, s, session.Newstyle), one)
			if _, err := client.Run(t.Context(), 10*moment, 0, c.verify); err == nil || !strings.Contains(err.Error(), "not what the disk was filled with") {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

// connectQuietly is for clients whose connection is going to break.
func connectQuietly(t testing.TB, address string, w Workload) *Client {
	t.Helper()
	c, err := Open(t.Context(), address, w, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// script greets in the old style and then answers each read with what answer makes.
func script(t testing.TB, answer func(r nbd.Request) []byte) string {
	return accept(t, func(conn net.Conn) {
		defer conn.Close()
		_, _ = conn.Write(nbd.AppendOldstyleGreeting(nil, testSize, nbd.OldstyleFlags))
		header := make([]byte, nbd.RequestSize)
		for {
			if _, err := io.ReadFull(conn, header); err != nil {
				return
			}
			r, err := nbd.DecodeRequest(header)
			if err != nil || r.Command == nbd.CmdDisc {
				return
			}
			reply := answer(r)
			if reply == nil {
				return
			}
			if _, err := conn.Write(reply); err != nil {
				return
			}
		}
	})
}

func TestBrokenRepliesEndTheRun(t *testing.T) {
	data := func(r nbd.Request) []byte {
		p := make([]byte, r.Length)
		Fill(p, r.Offset)
		return p
	}
	var last uint64
	for want, answer := range map[string]func(r nbd.Request) []byte{
		"EIO":                                   func(r nbd.Request) []byte { return nbd.AppendSimpleReply(nil, nbd.EIO, r.Cookie) },
		"not in flight":                         func(r nbd.Request) []byte { return nbd.AppendSimpleReply(nil, 0, r.Cookie+1) },
		"magic":                                 func(r nbd.Request) []byte { return binary.BigEndian.AppendUint64(nil, r.Cookie<<8|1) },
		"closed the connection with 1 requests": func(nbd.Request) []byte { return nil },
		"which is not in flight": func(r nbd.Request) []byte { // the one before once more
			cookie := last
			if last == 0 {
				cookie = r.Cookie
			}
			last = r.Cookie
			return append(nbd.AppendSimpleReply(nil, 0, cookie), data(r)...)
		},
	} {
		t.Run(want, func(t *testing.T) {
			answer := answer
			if want == "magic" {
				inner := answer
				answer = func(r nbd.Request) []byte { return append(inner(r), make([]byte, 8)...) }
			}
			c := connectQuietly(t, script(t, answer), Workload{Connections: 1, Depth: 1, Block: 4096, Reads: 100})
			if _, err := c.Run(t.Context(), time.Second, 0, false); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("the error is %v, want one with %q", err, want)
			}
		})
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	var asked sync.Once
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped by the test")
	silent := script(t, func(nbd.Request) []byte {
		asked.Do(func() { cancel(stopped) })
		return []byte{0x67} // and no more of a reply
	})
	c := connectQuietly(t, silent, Workload{Connections: 2, Depth: 1, Block: 4096, Reads: 100})
	if _, err := c.Run(ctx, time.Hour, 0, false); !errors.Is(err, stopped) {
		t.Errorf("the error is %v", err)
	}
}

func TestHandshakeEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped by the test")
	silent := accept(t, func(conn net.Conn) {
		cancel(stopped)
		_, _ = io.Copy(io.Discard, conn)
		conn.Close()
	})
	if _, err := Open(ctx, silent, Workload{Connections: 1, Depth: 1, Block: 4096}, Options{}); !errors.Is(err, stopped) {
		t.Errorf("the error is %v", err)
	}
}

func TestImpossibleWorkloadsAreRefused(t *testing.T) {
	address := serve(t, filled(t), session.Newstyle)
	good := Workload{Connections: 1, Depth: 1, Block: 4096, Reads: 100}
	for name, change := range map[string]func(w *Workload){
		"no connection":        func(w *Workload) { w.Connections = 0 },
		"nothing in flight":    func(w *Workload) { w.Depth = 0 },
		"too many in flight":   func(w *Workload) { w.Depth = MaxDepth + 1 },
		"part of a page":       func(w *Workload) { w.Block = 512 },
		"more than the disk":   func(w *Workload) { w.Block = 2 * testSize },
		"more than everything": func(w *Workload) { w.Reads = 101 },
	} {
		w := good
		change(&w)
		if c, err := Open(t.Context(), address, w, Options{}); err == nil {
			_ = c.Close()
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := Open(t.Context(), address, good, Options{Export: "another"}); err == nil || !strings.Contains(err.Error(), "UNKNOWN") {
		t.Errorf("asking for an export that is not there: %v", err)
	}
}

func TestNothingIsAllocatedPerRequest(t *testing.T) {
	for name, w := range map[string]Workload{
		"reads":  {Connections: 1, Depth: 32, Block: 4096, Reads: 100},
		"writes": {Connections: 1, Depth: 32, Block: 4096, Reads: 0},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := pipe(t)
			served := make(chan struct{})
			go func() {
				defer close(served)
				echo(far, 4096)
			}()
			c, err := Over(t.Context(), w, Options{}, near)
			if err != nil {
				t.Fatal(err)
			}
			var requests uint64
			perRun := testing.AllocsPerRun(3, func() {
				r, err := c.Run(t.Context(), 5*moment, 0, false)
				if err != nil {
					t.Fatal(err)
				}
				requests = r.All
			})
			// A run itself takes some, for its goroutine and its results.
			if requests < 100 || perRun > 40 {
				t.Errorf("%v allocations in a run of %d requests", perRun, requests)
			}
			_ = c.Close()
			<-served
		})
	}
}

// pipe returns two ends of a TCP connection.
func pipe(t testing.TB) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return near, far
}

// echo answers everything in the cheapest way there is, to measure the load itself.
func echo(conn net.Conn, block int) {
	defer conn.Close()
	_, _ = conn.Write(nbd.AppendOldstyleGreeting(nil, testSize, nbd.OldstyleFlags))
	in := make([]byte, 64<<10+nbd.RequestSize+block)
	out := make([]byte, 0, MaxDepth*(nbd.SimpleReplySize+block))
	data := make([]byte, block)
	Fill(data, 0)
	have := 0
	for {
		n, err := conn.Read(in[have:])
		if err != nil {
			return
		}
		have += n
		out = out[:0]
		rest := in[:have]
		for len(rest) >= nbd.RequestSize {
			r, err := nbd.DecodeRequest(rest)
			if err != nil || r.Command == nbd.CmdDisc {
				return
			}
			length := nbd.RequestSize
			if r.Command == nbd.CmdWrite {
				length += int(r.Length)
			}
			if len(rest) < length {
				break
			}
			rest = rest[length:]
			out = nbd.AppendSimpleReply(out, 0, r.Cookie)
			if r.Command == nbd.CmdRead {
				restamp(data, r.Offset)
				out = append(out, data...)
			}
		}
		have = copy(in, rest)
		if len(out) > 0 {
			if _, err := conn.Write(out); err != nil {
				return
			}
		}
	}
}

// BenchmarkLoad shows what the load itself costs, as client-ns/req: the server in it
// does nothing but answer.
func BenchmarkLoad(b *testing.B) {
	for name, w := range map[string]Workload{
		"read/depth=1":   {Connections: 1, Depth: 1, Block: 4096, Reads: 100},
		"read/depth=32":  {Connections: 1, Depth: 32, Block: 4096, Reads: 100},
		"write/depth=32": {Connections: 1, Depth: 32, Block: 4096, Reads: 0},
	} {
		b.Run(name, func(b *testing.B) {
			near, far := pipe(b)
			served := make(chan struct{})
			go func() {
				defer close(served)
				echo(far, w.Block)
			}()
			c, err := Over(b.Context(), w, Options{}, near)
			if err != nil {
				b.Fatal(err)
			}
			var all Result
			for b.Loop() {
				r, err := c.Run(b.Context(), 10*time.Millisecond, 0, false)
				if err != nil {
					b.Fatal(err)
				}
				all.All += r.All
				all.CPU += r.CPU
				all.Rate = r.Rate
			}
			b.ReportMetric(float64(all.CPU.Nanoseconds())/float64(all.All), "client-ns/req")
			b.ReportMetric(all.Rate, "req/s")
			_ = c.Close()
			<-served
		})
	}
}
