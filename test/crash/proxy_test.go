// SPDX-License-Identifier: GPL-3.0-or-later

package crash

import (
	"bytes"
	"encoding/binary"
	"net"
	"sync"
	"testing"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// proxy stands between a source and a destination, counts the bytes in each
// direction, and cuts connections, or holds them up, where it is told to.
type proxy struct {
	addr, to string
	listener net.Listener
	relays   sync.WaitGroup

	mu     sync.Mutex
	links  map[*link]bool
	cuts   []*cut
	closed bool
	count  int // connections so far
	base   int // the number of the first one since the last cut

	handshake [2]int // bytes of the latest one's, up and down
}

// cut is where a connection is to be cut, or held up.
type cut struct {
	// connection is the one that is meant, counted from 0 since the cut before; -1:
	// any.
	connection int
	// after is the request behind whose first byte n is counted; 0: all bytes of
	// the connection are.
	after nbd.Command
	// down: n counts what comes from the destination, since the request.
	down bool
	// n is how many bytes pass.
	n int
	// times is how often it happens; 0: once.
	times int
	// hold: the connection stays, and what follows is kept back until release.
	hold bool

	done    chan struct{} // closed when it has happened for the last time
	release chan struct{}
}

// link is one connection through a proxy.
type link struct {
	number         int
	client, server net.Conn

	mu   sync.Mutex
	seen [2]int              // bytes, up and down
	from map[nbd.Command]int // where in up a request began
	base map[nbd.Command]int // how many bytes of down there had been then
	tail []byte              // of up, in case a request is split

	greeted bool // the handshake has ended
}

// newProxy listens at addr until the test ends.
func newProxy(t *testing.T, addr, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: addr, to: to, listener: l, links: map[*link]bool{}}
	p.relays.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *proxy) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	for _, c := range p.cuts {
		if c.hold {
			c.let()
		}
	}
	p.mu.Unlock()
	p.cutAll()
	p.relays.Wait()
}

// arm adds a cut.
func (p *proxy) arm(c cut) *cut {
	c.times = max(c.times, 1)
	c.done, c.release = make(chan struct{}), make(chan struct{})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cuts = append(p.cuts, &c)
	return &c
}

// begin lets connections count from now on, and the next n of them through.
func (p *proxy) begin(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.base = p.count + n
}

// greeted is how many bytes the latest handshake had, up and down.
func (p *proxy) greeted() (up, down int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.handshake[0], p.handshake[1]
}

// left is how many cuts are still to happen.
func (p *proxy) left() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, c := range p.cuts {
		n += c.times
	}
	return n
}

// let ends a hold. It may be called again.
func (c *cut) let() {
	select {
	case <-c.release:
	default:
		close(c.release)
	}
}

// cutAll cuts every connection that there is.
func (p *proxy) cutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.cut()
	}
}

func (l *link) cut() {
	_ = l.client.Close()
	_ = l.server.Close()
}

func (p *proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.to)
		if err != nil {
			_ = conn.Close()
			continue
		}
		l := &link{client: conn, server: server, from: map[nbd.Command]int{}, base: map[nbd.Command]int{}}
		p.mu.Lock()
		l.number = p.count
		p.count++
		p.links[l] = true
		closed := p.closed
		p.mu.Unlock()
		if closed {
			l.cut()
		}
		p.relays.Go(func() { p.relay(l) })
	}
}

// relay passes bytes on until both directions have ended.
func (p *proxy) relay(l *link) {
	var both sync.WaitGroup
	both.Go(func() { p.pump(l, false) })
	p.pump(l, true)
	both.Wait()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// pump passes on what goes in one direction. An end is passed on as an end.
func (p *proxy) pump(l *link, down bool) {
	from, to := l.client, l.server
	if down {
		from, to = to, from
	}
	if c, n := p.due(l, down, 0); c != nil && n == 0 && !p.happen(l, c) {
		return
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && !p.pass(l, to, buf[:n], down) {
			return
		}
		if err != nil {
			if closer, ok := to.(*net.TCPConn); ok {
				_ = closer.CloseWrite()
			}
			return
		}
	}
}

// pass writes b, up to where a connection is to be cut. It returns false when it was.
func (p *proxy) pass(l *link, to net.Conn, b []byte, down bool) bool {
	if at, found := l.note(b, down); found {
		p.mu.Lock()
		p.handshake = at
		p.mu.Unlock()
	}
	for len(b) > 0 {
		c, n := p.due(l, down, len(b))
		l.mu.Lock()
		l.seen[index(down)] += n // before anybody can answer it
		l.mu.Unlock()
		if _, err := to.Write(b[:n]); err != nil {
			l.cut()
			return false
		}
		b = b[n:]
		if c != nil && !p.happen(l, c) {
			return false
		}
	}
	return true
}

func index(down bool) int {
	if down {
		return 1
	}
	return 0
}

// watched are the requests that cuts can count from.
var watched = []nbd.Command{nbd.CmdPrepare, nbd.CmdCommit}

// note finds requests in what the source sends. With the first one it says where
// the handshake has ended.
func (l *link) note(b []byte, down bool) (handshake [2]int, ended bool) {
	if down {
		return handshake, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	text := append(append([]byte(nil), l.tail...), b...)
	begin := l.seen[0] - len(l.tail)
	magic := binary.BigEndian.AppendUint32(nil, nbd.MagicRequest)
	if i := bytes.Index(text, magic); i >= 0 && !l.greeted {
		l.greeted, ended = true, true
		handshake = [2]int{begin + i, l.seen[1]}
	}
	for _, command := range watched {
		pattern := binary.BigEndian.AppendUint16(append(magic[:4:4], 0, 0), uint16(command))
		if _, has := l.from[command]; has {
			continue
		}
		if i := bytes.Index(text, pattern); i >= 0 {
			l.from[command] = begin + i
			l.base[command] = l.seen[1]
		}
	}
	l.tail = append([]byte(nil), text[max(0, len(text)-7):]...)
	return handshake, ended
}

// where is the number of bytes of a direction after which a cut is due; false if
// that is not known yet.
func (l *link) where(c *cut) (int, bool) {
	if c.after == 0 {
		return c.n, true
	}
	from, has := l.from[c.after]
	if c.down {
		from = l.base[c.after]
	}
	return from + c.n, has
}

// due is the cut within the next n bytes of a direction, and how many of them come
// before; nil and n if there is none. Cuts come one after the other, in the order in
// which they were armed.
func (p *proxy) due(l *link, down bool, n int) (*cut, int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range p.cuts {
		if c.times == 0 {
			continue
		}
		if at, known := l.where(c); known && c.down == down && (c.connection < 0 || c.connection == l.number-p.base) {
			if left := at - l.seen[index(down)]; left >= 0 && left <= n {
				return c, left
			}
		}
		break
	}
	return nil, n
}

// happen cuts or holds. It returns false when the connection has ended.
func (p *proxy) happen(l *link, c *cut) bool {
	p.mu.Lock()
	if c.times == 0 { // somebody else was quicker
		p.mu.Unlock()
		return true
	}
	c.times--
	last := c.times == 0
	p.base = l.number + 1
	p.mu.Unlock()
	if !c.hold {
		l.cut()
	}
	if last {
		close(c.done)
	}
	if c.hold {
		<-c.release
	}
	return c.hold
}
