// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"context"
	"net"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// counting is a queue that knows how much of its memory is lent out.
type counting struct {
	wire.Queue
	t         testing.TB
	lent      atomic.Int64 // bytes
	most      atomic.Int64 // that were ever lent at a time
	requests  atomic.Int64 // submitted
	submitted atomic.Int64 // calls of Submit
	handled   atomic.Int64 // requests whose Submit has returned
}

func (q *counting) lend(p *wire.Payload) *wire.Payload {
	if p == nil {
		return nil
	}
	n := q.lent.Add(int64(cap(p.Bytes)))
	for {
		most := q.most.Load()
		if n <= most || q.most.CompareAndSwap(most, n) {
			return p
		}
	}
}

func (q *counting) Borrow(ctx context.Context, n int) (*wire.Payload, error) {
	p, err := q.Queue.Borrow(ctx, n)
	return q.lend(p), err
}

func (q *counting) TryBorrow(n int) *wire.Payload { return q.lend(q.Queue.TryBorrow(n)) }

func (q *counting) Return(p *wire.Payload) {
	q.lent.Add(-int64(cap(p.Bytes)))
	q.Queue.Return(p)
}

func (q *counting) Submit(requests []*wire.Request) {
	q.submitted.Add(1)
	q.requests.Add(int64(len(requests)))
	n := int64(len(requests))
	q.Queue.Submit(requests)
	q.handled.Add(n)
}

// Close checks that a lane which frees its memory here takes it from nobody.
func (q *counting) Close() error {
	if n := q.lent.Load(); n != 0 {
		q.t.Errorf("%d bytes were not returned before Close", n)
	}
	return q.Queue.Close()
}

// transmit starts a transmission phase without a handshake, over a queue that
// counts.
func transmit(t testing.TB, e *export.Export, structured bool) (*client, *counting) {
	t.Helper()
	near, far := socketpair(t, unix.SOCK_STREAM)
	return transmitOver(t, near, far, e, structured)
}

func transmitOver(t testing.TB, near, far net.Conn, e *export.Export, structured bool) (*client, *counting) {
	return transmitWith(t, near, far, Config{Export: e}, structured)
}

func transmitWith(t testing.TB, near, far net.Conn, config Config, structured bool) (*client, *counting) {
	t.Helper()
	config.Log = hclog.NewNullLogger()
	agreed := &agreement{flags: transmissionFlags(config.Export, structured), structured: structured, allocation: structured}
	ts := newTransmission(context.Background(), far, nil, config, agreed, &link{})
	q := &counting{Queue: ts.queue, t: t}
	ts.queue = q
	c := run(t, near, func() error {
		defer far.Close()
		err := ts.run()
		linger(far)
		return err
	})
	c.structured = structured
	return c, q
}

// transmitBulk is transmit over sockets that take a MiB at a time.
func transmitBulk(t testing.TB, e *export.Export, structured bool) (*client, *counting) {
	t.Helper()
	near, far := socketpair(t, unix.SOCK_STREAM)
	for _, conn := range []*net.UnixConn{near, far} {
		if err := conn.SetWriteBuffer(2 * mib); err != nil {
			t.Fatal(err)
		}
	}
	return transmitOver(t, near, far, e, structured)
}
