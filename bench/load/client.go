// SPDX-License-Identifier: GPL-3.0-or-later

package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// Client is a workload's connections to one server. Its methods are for one
// goroutine.
type Client struct {
	workload    Workload
	connections []*connection
}

// Result is what one run has measured.
type Result struct {
	// Requests were answered in the time that the run was given; Rate is how
	// many a second. A batch of replies that comes at the end counts as a whole,
	// with its own time.
	Requests uint64
	Rate     float64
	// All is Requests and those in flight at the end, which were waited for. CPU
	// times are to be divided by it.
	All uint64
	// Latency is each request's, All of them, from before its batch was sent until
	// after its batch of replies was received.
	Latency Histogram
	// CPU is what the load itself took on its threads.
	CPU time.Duration
}

// handshakeTime bounds connecting and the handshake of all connections.
const handshakeTime = 30 * time.Second

// Open connects to the TCP address.
func Open(ctx context.Context, address string, w Workload, o Options) (*Client, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	return open(ctx, w, o, func() (*socket, error) { return dial(ctx, address) })
}

// Over is Open for connections that exist already, as many as the workload asks for.
// It takes their sockets; they are closed, also on errors.
func Over(ctx context.Context, w Workload, o Options, conns ...net.Conn) (*Client, error) {
	defer func() {
		for _, conn := range conns {
			conn.Close()
		}
	}()
	next := 0
	return open(ctx, w, o, func() (*socket, error) {
		if next == len(conns) {
			return nil, fmt.Errorf("%d connections for a workload that needs %d", len(conns), w.Connections)
		}
		conn, ok := conns[next].(syscall.Conn)
		if !ok {
			return nil, fmt.Errorf("a %T has no socket", conns[next])
		}
		next++
		return takeSocket(conn)
	})
}

func open(ctx context.Context, w Workload, o Options, connect func() (*socket, error)) (*Client, error) {
	c := &Client{workload: w}
	for i := range max(w.Connections, 1) {
		s, err := connect()
		if err != nil {
			return nil, errors.Join(err, context.Cause(ctx), c.Close())
		}
		a, err := shakeUntil(ctx, s, o)
		if err == nil {
			err = w.check(a.size)
		}
		if err == nil && w.Reads < 100 && a.flags.Has(nbd.FlagReadOnly) {
			err = errors.New("the workload writes, but the export is read-only")
		}
		if err != nil {
			s.close()
			return nil, errors.Join(err, c.Close())
		}
		c.connections = append(c.connections, newConnection(s, a, w, i))
	}
	return c, nil
}

// shakeUntil is shake, but ends with ctx.
func shakeUntil(ctx context.Context, s *socket, o Options) (agreement, error) {
	defer cutWith(ctx, s)()
	a, err := shake(s, o)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("handshake: %w", context.Cause(ctx))
	}
	return a, err
}

// cutWith cuts sockets when ctx ends, until the function that it returns is called.
func cutWith(ctx context.Context, sockets ...*socket) (release func()) {
	ran := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ran)
		for _, s := range sockets {
			s.cut()
		}
	})
	return func() {
		if !stop() {
			<-ran
		}
	}
}

// Size is the size of the disk in bytes.
func (c *Client) Size() uint64 { return c.connections[0].size }

// Structured reports whether the server sends structured replies.
func (c *Client) Structured() bool { return c.connections[0].structured }

// Run puts the server under load for d. Runs with the same seed ask for the same
// offsets, if they are random. With verify every byte that is read is compared with
// what it should be; without, the stamps are. After an error, which may come from
// ctx, the client can only be closed.
func (c *Client) Run(ctx context.Context, d time.Duration, seed uint64, verify bool) (Result, error) {
	var sockets []*socket
	for _, conn := range c.connections {
		sockets = append(sockets, conn.socket)
	}
	defer cutWith(ctx, sockets...)()
	check := checkStamps
	if verify {
		check = checkAll
	}
	results := make([]Result, len(c.connections))
	errs := make([]error, len(c.connections))
	var runners sync.WaitGroup
	for i, conn := range c.connections {
		runners.Go(func() {
			results[i], errs[i] = conn.measure(d, seed<<16|uint64(i), check)
			if errs[i] != nil {
				for _, s := range sockets {
					s.cut() // nobody waits for the others
				}
			}
		})
	}
	runners.Wait()
	var sum Result
	for i := range results {
		sum.Requests += results[i].Requests
		sum.Rate += results[i].Rate
		sum.All += results[i].All
		sum.CPU += results[i].CPU
		sum.Latency.Add(&results[i].Latency)
	}
	if err := errors.Join(errs...); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return Result{}, err
	}
	return sum, nil
}

// measure is one connection's part of Run.
func (c *connection) measure(d time.Duration, seed uint64, check func([]byte, uint64) error) (r Result, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := threadTime()
	if err != nil {
		return r, err
	}
	c.latency = &r.Latency
	inTime, took, err := c.run(d, seed, check)
	if err != nil {
		return r, err
	}
	after, err := threadTime()
	if err != nil {
		return r, err
	}
	r.Requests, r.All = inTime, r.Latency.Count()
	r.Rate = float64(inTime) / took.Seconds()
	r.CPU = after - before
	return r, nil
}

// threadTime is the CPU time of the calling thread.
func threadTime() (time.Duration, error) {
	var t unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t)
	return time.Duration(t.Nano()), err
}

// Close says good-bye to the server and closes the connections.
func (c *Client) Close() error {
	var errs []error
	for _, conn := range c.connections {
		if conn.flying == 0 {
			_, err := conn.Write(nbd.AppendRequest(nil, nbd.Request{Command: nbd.CmdDisc}))
			errs = append(errs, err)
		}
		conn.close()
	}
	c.connections = nil
	return errors.Join(errs...)
}
