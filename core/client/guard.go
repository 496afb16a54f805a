// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

// watch makes reads and writes of a connection fail once a context ends. It
// uses the connection's deadlines, so whoever wants to set one meanwhile goes
// through it.
type watch struct {
	ctx  context.Context
	conn net.Conn
	stop func() bool
	ran  chan struct{} // closed when cut has run

	mu  sync.Mutex
	off bool // guarded by mu: the context has ended, deadlines stay in the past
}

// guard starts to watch. release has to follow.
func guard(ctx context.Context, conn net.Conn) *watch {
	w := &watch{ctx: ctx, conn: conn, ran: make(chan struct{})}
	w.stop = context.AfterFunc(ctx, w.cut)
	return w
}

// inThePast is a deadline that has passed on any clock.
var inThePast = time.Unix(1, 0)

func (w *watch) cut() {
	defer close(w.ran)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.off = true
	if w.conn.SetDeadline(inThePast) != nil {
		_ = w.conn.Close() // the only other way to end a read
	}
}

// writeFor and readFor bound writes and reads from now on, also those under way,
// unless the context has ended already.
func (w *watch) writeFor(d time.Duration) { w.bound(w.conn.SetWriteDeadline, d) }
func (w *watch) readFor(d time.Duration)  { w.bound(w.conn.SetReadDeadline, d) }

func (w *watch) bound(set func(time.Time) error, d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.off {
		_ = set(time.Now().Add(d))
	}
}

// release ends the watch and takes the deadlines off again. It returns err, with
// the context's reason in place of the time-out when the context has caused it:
// of the time-out only the text stays, since a cancelled call is none.
func (w *watch) release(err error) error {
	if !w.stop() {
		<-w.ran
	}
	_ = w.conn.SetDeadline(time.Time{})
	if err != nil && w.ctx.Err() != nil && isTimeout(err) {
		return fmt.Errorf("%w (%s)", context.Cause(w.ctx), err.Error())
	}
	return err
}

// isTimeout reports whether err comes from a deadline of the connection, and
// not from one of the caller's reader or writer.
func isTimeout(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) &&
		!errors.Is(err, ErrInput) && !errors.Is(err, ErrOutput)
}
