// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/flexnbd/flexnbd/core/client"
	"github.com/flexnbd/flexnbd/core/failpoint"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/core/owner"
	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// patience is how long a destination may take. One that hangs is told from one that is
// slow by these numbers alone.
type patience struct {
	connect time.Duration
	reply   time.Duration
	flush   time.Duration // gigabytes in a destination's page cache take their time
	retry   time.Duration // from the end of an attempt to the next
}

var defaultPatience = patience{connect: 5 * time.Second, reply: 10 * time.Second, flush: 5 * time.Minute, retry: time.Second}

// pipeline takes a connection over.
func (p patience) pipeline(c *client.Client) *client.Pipeline {
	return c.Pipeline(client.PipelineOptions{ReplyTimeout: p.reply, FlushTimeout: p.flush})
}

// maxConnections is how many connections a migration has to its destination, where
// that allows several: the last of them carries what clients write in the
// write-through phase, and flushes, the others the copy. BenchmarkCopy compares: with
// 2 cores and loopback a further one gains nothing.
const maxConnections = 4

// remoteKind is what the other end is.
type remoteKind int

const (
	remoteFlexnbd  remoteKind = iota // it has answered the migration option
	remoteOldstyle                   // flexnbd 0.x, or a listen --handshake oldstyle
	remoteOther                      // any other NBD server
)

// remote is the destination as one attempt sees it: its connections and what it said
// of itself.
type remote struct {
	kind   remoteKind
	answer nbd.MigrationAnswer // remoteFlexnbd
	flags  nbd.TransmissionFlags
	sizes  nbd.BlockSizes

	// lines are the connections. The first one sends PREPARE and ENTRUST, the last
	// one FLUSH.
	lines []*client.Pipeline
}

// dial connects to the destination.
func (s *Source) dial(ctx context.Context, to, from transport.Address) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.patience.connect, fmt.Errorf("no connection to %v within %v: %w", to, s.patience.connect, context.DeadlineExceeded))
	defer cancel()
	conn, err := s.config.Dial(ctx, to, from)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return conn, err
}

// connect is dial and the handshake.
func (s *Source) connect(ctx context.Context, to, from transport.Address, hello nbd.MigrationHello) (*client.Client, error) {
	conn, err := s.dial(ctx, to, from)
	if err != nil {
		return nil, &Reason{WordsConnect, err}
	}
	if err := failpoint.Hit("source-connected"); err != nil {
		_ = conn.Close()
		return nil, &Reason{WordsConnect, err}
	}
	c, err := client.Connect(ctx, conn, client.Options{HandshakeTimeout: s.patience.reply, Migration: &hello})
	if err != nil {
		return nil, handshakeReason(err)
	}
	return c, nil
}

// hello is what the connections of an attempt say.
func (s *Source) hello(id, replaces owner.ID) nbd.MigrationHello {
	return nbd.MigrationHello{
		Version: nbd.MigrationVersion, Purpose: nbd.MigrationSend,
		Source: s.id, ID: id, Replaces: replaces, Size: uint64(s.config.Export.Size()),
	}
}

// reach makes an attempt's first connection and finds out who is there. The error is
// a [*Reason].
func (s *Source) reach(ctx context.Context, order *Order, hello nbd.MigrationHello) (*remote, error) {
	c, err := s.connect(ctx, order.To, order.Bind, hello)
	if err != nil {
		return nil, err
	}
	r, err := judge(c, order, s.config.Export.Size())
	if err == nil {
		if hit := failpoint.Hit("source-hello-answered"); hit != nil {
			err = &Reason{WordsRejected, hit}
		}
	}
	if err != nil {
		hangUp(c)
		return nil, err
	}
	r.lines = append(r.lines, s.patience.pipeline(c))
	return r, nil
}

// hangUp ends a connection over which no disk was given away. To a server with the
// oldstyle handshake a goodbye says that it has the disk now, whatever came before.
func hangUp(c *client.Client) {
	if !c.Oldstyle() {
		_ = c.Disconnect()
	}
	_ = c.Close()
}

// allowsMore says whether the destination takes further connections. Where nothing
// says that a flush on one covers the others, there is no point in them.
func (r *remote) allowsMore() bool {
	return r.kind == remoteFlexnbd || r.kind == remoteOther && r.flags.Has(nbd.FlagCanMultiConn)
}

// judge says what kind of server answered, or why it is none for this disk.
func judge(c *client.Client, order *Order, size int64) (*remote, error) {
	r := &remote{kind: remoteOther, flags: c.Flags()}
	r.sizes, _ = c.BlockSizes()
	answer, answered := c.Migration()
	switch {
	case answered:
		r.kind, r.answer = remoteFlexnbd, answer
	case c.Oldstyle():
		r.kind = remoteOldstyle
	}
	switch {
	case c.Size() != uint64(size):
		return nil, &Reason{WordsSize, fmt.Errorf("%v has %d bytes, the local disk has %d", order.To, c.Size(), size)}
	case r.flags.Has(nbd.FlagReadOnly):
		return nil, &Reason{WordsRejected, fmt.Errorf("%v serves a disk that takes no writes", order.To)}
	case answered && answer.Flags.Has(nbd.MigrationOwner):
		return nil, &Reason{WordsRejected, fmt.Errorf("%v serves its own disk already; a destination is started with listen", order.To)}
	case r.kind == remoteOther:
		return r, unconfirmed(order, c)
	case r.kind == remoteOldstyle && order.Rehearse:
		return nil, &Reason{WordsOrder, fmt.Errorf("%v has the oldstyle handshake (flexnbd 0.x) and takes the end of a copy for the hand-over, so that it cannot be rehearsed with", order.To)}
	case r.kind == remoteOldstyle && order.Unlink:
		return nil, &Reason{WordsOrder, fmt.Errorf("%v has the oldstyle handshake (flexnbd 0.x), so that nobody there can confirm that it has the disk, and --unlink would remove the only copy that is known to be whole", order.To)}
	}
	return r, nil
}

// join makes the further connections that the destination allows. refused is why there
// are fewer than there might be, which is no reason not to migrate: the destination may
// have no place for more. Nor is it lost what else that may mean, such as an attempt
// that is over there or a destination that is gone: then the first connection breaks,
// and with it the attempt.
func (s *Source) join(ctx context.Context, r *remote, order *Order, hello nbd.MigrationHello) (refused, err error) {
	if !r.allowsMore() {
		return nil, nil
	}
	for len(r.lines) < s.connections {
		c, err := s.connect(ctx, order.To, order.Bind, hello)
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = c.Close()
			}
			return nil, context.Cause(ctx)
		case err != nil:
			return err, nil
		}
		_, answered := c.Migration()
		if answered != (r.kind == remoteFlexnbd) || c.Size() != uint64(s.config.Export.Size()) {
			_ = c.Close()
			return nil, fmt.Errorf("connection %d of one migration reached another server than the first", len(r.lines)+1)
		}
		r.lines = append(r.lines, s.patience.pipeline(c))
	}
	return nil, nil
}

// goesOnWith says, once, that there are fewer connections than there might be.
func (m *mirroring) goesOnWith(r *remote, refused error) {
	if refused == nil || m.fewer {
		return
	}
	m.fewer = true
	m.log.Info("the destination takes no further connection; the migration goes on with those it has", "connections", len(r.lines), "reason", refused)
}

// watch calls broken when a connection is lost. It returns when ctx ends.
func (r *remote) watch(ctx context.Context, line *client.Pipeline, broken func(error)) {
	select {
	case <-line.Broken():
		broken(fmt.Errorf("the connection to the destination was lost: %w", line.Err()))
	case <-ctx.Done():
	}
}

// close cuts every connection and waits until nothing of them runs.
func (r *remote) close() {
	for _, line := range r.lines {
		_ = line.Close()
	}
}

// leave says goodbye on every connection, the first one last.
func (r *remote) leave(ctx context.Context) error {
	var errs []error
	for i := len(r.lines) - 1; i >= 0; i-- {
		errs = append(errs, r.lines[i].Disconnect(ctx))
	}
	return errors.Join(errs...)
}

// through is the connection for what clients write in the write-through phase, and
// bulk are those for the copy, so that a client's write waits behind as little as
// possible.
func (r *remote) through() *client.Pipeline { return r.lines[len(r.lines)-1] }

func (r *remote) bulk() []*client.Pipeline { return r.lines[:max(1, len(r.lines)-1)] }

// canZero says whether the destination takes WRITE_ZEROES.
func (r *remote) canZero() bool {
	return r.kind != remoteOldstyle && r.flags.Has(nbd.FlagSendWriteZeroes)
}

// canFlush says whether the destination takes FLUSH.
func (r *remote) canFlush() bool { return r.flags.Has(nbd.FlagSendFlush) }

// readsAsZeroes says whether holes need not be sent.
func (r *remote) readsAsZeroes() bool {
	return r.kind == remoteFlexnbd && r.answer.Flags.Has(nbd.MigrationZeroes)
}

// minBlock is what offsets and lengths have to be multiples of.
func (r *remote) minBlock() int64 { return max(1, int64(r.sizes.Minimum)) }

// longestWrite is the most payload that one WRITE may carry, in whole blocks.
func (r *remote) longestWrite() int64 {
	if r.sizes.MaxPayload == 0 {
		return wire.MaxPayload
	}
	return max(r.minBlock(), int64(r.sizes.MaxPayload)&^(r.minBlock()-1))
}

// remoteError says whose error it is.
func remoteError(err error) error {
	return fmt.Errorf("the destination: %w", err)
}

// ask sends one request on the first connection and waits for its answer.
func (r *remote) ask(ctx context.Context, request nbd.Request) error {
	return ask(ctx, r.lines[0], request)
}

// flush makes durable what the destination has answered on any connection.
func (r *remote) flush(ctx context.Context) error {
	if !r.canFlush() {
		return nil // it promises no more than its replies
	}
	err := ask(ctx, r.lines[len(r.lines)-1], nbd.Request{Command: nbd.CmdFlush})
	if err != nil {
		return fmt.Errorf("flushing the destination: %w", err)
	}
	return nil
}

func ask(ctx context.Context, line *client.Pipeline, request nbd.Request) error {
	done := make(chan error, 1)
	line.Send(&client.Call{Request: request, Done: func(err error) { done <- err }})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// addresses are where COMMIT goes: where the attempt was sent to, and where the
// destination said that it will serve. A host that means every address of the
// destination's machine is the one that was dialled.
func (r *remote) addresses(to transport.Address) []owner.Address {
	addresses := []owner.Address{owner.Address(to)}
	home := owner.Address{Addr: r.answer.Address, Port: r.answer.Port}
	if home.Addr == "" {
		return addresses
	}
	if ip := net.ParseIP(home.Addr); ip != nil && ip.IsUnspecified() {
		home.Addr = to.Addr
	}
	if home != addresses[0] {
		addresses = append(addresses, home)
	}
	return addresses
}
