// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"io"
	"net"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// discarding answers every request at once and keeps nothing, without allocating.
func discarding(conn net.Conn) {
	defer conn.Close()
	in := make([]byte, 1<<20)
	out := make([]byte, 0, 64<<10)
	have, skip := 0, 0
	for {
		n, err := conn.Read(in[have:])
		if err != nil {
			return
		}
		have += n
		at := 0
		for {
			skipped := min(skip, have-at)
			at, skip = at+skipped, skip-skipped
			if skip > 0 || have-at < nbd.RequestSize {
				break
			}
			req, err := nbd.DecodeRequest(in[at:have])
			if err != nil || req.Command == nbd.CmdDisc {
				return
			}
			at += nbd.RequestSize
			if req.Command == nbd.CmdWrite {
				skip = int(req.Length)
			}
			out = nbd.AppendSimpleReply(out, 0, req.Cookie)
		}
		have = copy(in, in[at:have])
		if skip == 0 || len(out) > 2*nbd.SimpleReplySize {
			keep := 0
			if skip > 0 {
				keep = nbd.SimpleReplySize // the last is not complete
			}
			if _, err := conn.Write(out[:len(out)-keep]); err != nil {
				return
			}
			out = append(out[:0], out[len(out)-keep:]...)
		}
	}
}

// sockets returns both ends of a connection.
func sockets(tb testing.TB, network string) (near, far net.Conn) {
	tb.Helper()
	addr := "127.0.0.1:0"
	if network == "unix" {
		addr = filepath.Join(tb.TempDir(), "s")
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	if near, err = net.Dial(network, l.Addr().String()); err != nil {
		tb.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		tb.Fatal(err)
	}
	return near, far
}

// toDiscarding returns a pipeline to a discarding server of 1 TiB.
func toDiscarding(tb testing.TB, network string) *Pipeline {
	near, far := sockets(tb, network)
	done := make(chan struct{})
	go func() {
		defer close(done)
		discarding(far)
	}()
	c := &Client{conn: near, size: 1 << 40, flags: pipelineFlags, sizes: nbd.DefaultBlockSizes}
	p := c.Pipeline(PipelineOptions{})
	tb.Cleanup(func() {
		if err := p.Disconnect(tb.Context()); err != nil && tb.Context().Err() == nil {
			tb.Error(err)
		}
		<-done
	})
	return p
}

// window keeps n calls in flight until total have been made, and reuses them.
func window(tb testing.TB, p *Pipeline, n, size, total int) {
	ready := make(chan *Call, n)
	payload := make([]byte, size)
	for i := range n {
		c := &Call{
			Request: nbd.Request{Command: nbd.CmdWrite, Offset: uint64(i * size), Length: uint32(size)},
			Payload: payload,
		}
		c.Done = func(err error) {
			if err != nil {
				tb.Error(err)
			}
			ready <- c
		}
		ready <- c
	}
	for range total {
		p.Send(<-ready)
	}
	for range n {
		<-ready
	}
}

func BenchmarkPipeline(b *testing.B) {
	for _, network := range []string{"tcp", "unix"} {
		for _, bench := range []struct {
			name    string
			n, size int
		}{
			{"256KiB-64inflight", 64, 256 << 10},
			{"64KiB-64inflight", 64, 64 << 10},
			{"4KiB-64inflight", 64, 4 << 10},
			{"4KiB-1inflight", 1, 4 << 10},
		} {
			b.Run(network+"/"+bench.name, func(b *testing.B) {
				p := toDiscarding(b, network)
				b.SetBytes(int64(bench.size))
				b.ReportAllocs()
				b.ResetTimer()
				window(b, p, bench.n, bench.size, b.N)
				b.StopTimer()
			})
		}
	}
}

// BenchmarkSocketAlone is what the socket can do without NBD.
func BenchmarkSocketAlone(b *testing.B) {
	for _, network := range []string{"tcp", "unix"} {
		b.Run(network, func(b *testing.B) {
			near, far := sockets(b, network)
			done := make(chan struct{})
			go func() {
				defer close(done)
				buf := make([]byte, 1<<20)
				_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{far}, buf)
				far.Close()
			}()
			payload := make([]byte, 256<<10)
			b.SetBytes(int64(len(payload)))
			for b.Loop() {
				if _, err := near.Write(payload); err != nil {
					b.Fatal(err)
				}
			}
			near.Close()
			<-done
		})
	}
}

func TestCallsAllocateNothing(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		p := toDiscarding(t, network)
		window(t, p, 16, 4096, 2000) // tables and batches reach their size
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		const calls = 20000
		window(t, p, 16, 4096, calls)
		runtime.ReadMemStats(&after)
		// The window's own calls and what the runtime does besides are in it.
		if got := after.Mallocs - before.Mallocs; got > calls/20 {
			t.Errorf("%s: %d allocations for %d calls", network, got, calls)
		}
	}
}
