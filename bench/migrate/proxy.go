// SPDX-License-Identifier: GPL-3.0-or-later

package migrate

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// proxy forwards connections to an address and counts the bytes, both ways.
type proxy struct {
	listener net.Listener
	to       string
	bytes    atomic.Int64
	running  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	open   map[net.Conn]bool
}

func newProxy(to string) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: l, to: to, open: make(map[net.Conn]bool)}
	p.running.Go(p.accept)
	return p, nil
}

func (p *proxy) address() string { return p.listener.Addr().String() }

func (p *proxy) accept() {
	for {
		from, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.running.Go(func() { p.forward(from) })
	}
}

// forward joins two connections until both directions have ended.
func (p *proxy) forward(from net.Conn) {
	to, err := net.Dial("tcp", p.to)
	if err != nil {
		from.Close()
		return
	}
	defer p.forget(from, to)
	if !p.remember(from, to) {
		return
	}
	var back sync.WaitGroup
	back.Go(func() { p.pour(from, to) })
	p.pour(to, from)
	back.Wait()
}

// pour moves what comes from one side to the other, and its end. io.Copy splices, so
// that the proxy is no bottleneck.
func (p *proxy) pour(to, from net.Conn) {
	n, _ := io.Copy(to, from) // a connection that breaks is an end like any other
	p.bytes.Add(n)
	_ = to.(*net.TCPConn).CloseWrite()
}

// remember returns false if the proxy is closed already.
func (p *proxy) remember(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		p.open[c] = true
	}
	return !p.closed
}

func (p *proxy) forget(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		c.Close()
		delete(p.open, c)
	}
}

// close cuts everything and returns how many bytes there were.
func (p *proxy) close() int64 {
	p.listener.Close()
	p.mu.Lock()
	p.closed = true
	for c := range p.open {
		c.Close()
	}
	p.mu.Unlock()
	p.running.Wait()
	return p.bytes.Load()
}
