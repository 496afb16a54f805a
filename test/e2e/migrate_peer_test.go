// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"encoding/binary"
	"io"
	"net"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// peer is a destination that a test plays itself.
type peer struct {
	addr string

	mu    sync.Mutex
	conns []net.Conn
}

// newPeer listens on 127.0.0.1, and talks with whoever connects until the test ends.
func newPeer(t *testing.T, talk func(net.Conn)) *peer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{addr: l.Addr().String()}
	var talks sync.WaitGroup
	talks.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.conns = append(p.conns, conn)
			p.mu.Unlock()
			talks.Go(func() { talk(conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		for _, conn := range p.conns {
			_ = conn.Close()
		}
		p.mu.Unlock()
		talks.Wait()
	})
	return p
}

// connections is how many there have been.
func (p *peer) connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// startPeer starts another NBD server at a free port of 127.0.0.1, which command gets,
// and waits until it listens.
func startPeer(t *testing.T, command func(port string) []string) (addr string) {
	t.Helper()
	port := freePort(t)
	words := command(port)
	var said output
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%q said: %s", words, said.String())
		}
	})
	addr = "127.0.0.1:" + port
	eventually(t, words[0]+" serves", func() bool {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	})
	return addr
}

// relay stands between a source and its destination, and looks at what the source
// says first: a connection for COMMIT can be cut before the destination hears of it.
type relay struct {
	*peer
	mu      sync.Mutex
	refuses bool
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	r := &relay{}
	r.peer = newPeer(t, func(near net.Conn) { r.pass(near, to) })
	return r
}

func (r *relay) refuseCommit() { r.setRefuses(true) }
func (r *relay) allowCommit()  { r.setRefuses(false) }

func (r *relay) setRefuses(refuses bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuses = refuses
}

// pass copies both ways until one side ends.
func (r *relay) pass(near net.Conn, to string) {
	defer func() { _ = near.Close() }()
	far, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	var back sync.WaitGroup
	defer back.Wait()
	defer func() { _ = far.Close() }()
	back.Go(func() {
		defer func() { _ = near.Close() }()
		_, _ = io.Copy(near, far)
	})
	// The client's flags, then the option: magic, number, length, and the hello,
	// which begins with its version and its purpose.
	head := make([]byte, 4+16+4)
	if _, err := io.ReadFull(near, head); err != nil {
		return
	}
	purpose := nbd.MigrationPurpose(binary.BigEndian.Uint16(head[22:]))
	r.mu.Lock()
	refused := r.refuses && purpose == nbd.MigrationCommit
	r.mu.Unlock()
	if refused {
		return
	}
	if _, err := far.Write(head); err == nil {
		_, _ = io.Copy(far, near)
	}
}
