// SPDX-License-Identifier: GPL-3.0-or-later

package migrate

import (
	"io"
	"net"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers each connection with what it sends, twice.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-ended })
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			said, _ := io.ReadAll(c)
			_, _ = c.Write(append(said, said...))
			c.Close()
		}
	}()
	return l.Addr().String()
}

func TestProxyForwardsAndCountsBothWays(t *testing.T) {
	p, err := newProxy(echo(t))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		c, err := net.Dial("tcp", p.address())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		_ = c.(*net.TCPConn).CloseWrite()
		back, err := io.ReadAll(c)
		if err != nil || len(back) != 2000 {
			t.Errorf("%d bytes came back (%v), want 2000", len(back), err)
		}
		c.Close()
	}
	if have := p.close(); have != 3*3000 {
		t.Errorf("%d bytes were counted, want %d", have, 3*3000)
	}
}

func TestProxyCutsWhatIsOpen(t *testing.T) {
	p, err := newProxy(echo(t))
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", p.address())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p.close()
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes came through a closed proxy", n)
	}
}
