// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"math"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// dial makes a connection over real sockets, which have buffers and can be half
// closed, and returns the client's end.
func (r *rig) dial() *client {
	r.t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		conns[i], err = net.FileConn(f)
		_ = f.Close()
		if err != nil {
			r.t.Fatal(err)
		}
	}
	r.t.Cleanup(func() { conns[0].Close() })
	r.conns <- transport.Conn{Socket: conns[1], Peer: transport.Peer{Network: "tcp", Address: "10.0.0.1:1"}}
	return &client{r.t, conns[0]}
}

// forever says something again and again until the server hangs up. It may well
// hang up in the middle.
func (c *client) forever(b []byte) {
	for {
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

// once says something and then nothing, and takes nothing.
func (c *client) once(b []byte) { _, _ = c.Write(b) }

// transmit plays the handshake without a look at what the server says.
func (c *client) transmit() *client {
	c.once(slices.Concat(nbd.AppendClientFlags(nil, nbd.FlagClientFixedNewstyle|nbd.FlagClientNoZeroes),
		nbd.AppendOption(nil, nbd.OptStructuredReply, nil),
		nbd.AppendOption(nil, nbd.OptSetMetaContext, nbd.AppendMetaContextRequest(nil, "", nbd.BaseAllocation)),
		nbd.AppendOption(nil, nbd.OptGo, nbd.AppendInfoRequest(nil, ""))))
	return c
}

func request(cmd nbd.Command, flags nbd.CommandFlags, length uint32) []byte {
	return nbd.AppendRequest(nil, nbd.Request{Command: cmd, Flags: flags, Length: length})
}

// abuses are what clients do that want to use a server up. None of them reads.
var abuses = map[string]func(*client){
	"silent":              func(*client) {},
	"silent behind flags": func(c *client) { c.once([]byte{0, 0, 0, 3}) },
	"endless options": func(c *client) {
		c.once([]byte{0, 0, 0, 3})
		c.forever(nbd.AppendOption(nil, 99, nil))
	},
	"option of 4 GiB": func(c *client) {
		c.once([]byte("\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x07\xff\xff\xff\xff"))
		c.forever(make([]byte, 64<<10))
	},
	"option of 4 GiB that does not come": func(c *client) {
		c.once([]byte("\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x07\xff\xff\xff\xff"))
	},
	"write of 1 GiB that does not come": func(c *client) {
		c.transmit().once(slices.Concat(request(nbd.CmdWrite, 0, 64<<20), make([]byte, 1<<20)))
	},
	"refused write of 4 GiB": func(c *client) {
		c.transmit().once(request(nbd.CmdWrite, 0, math.MaxUint32))
		c.forever(make([]byte, 64<<10))
	},
	"reads":                        func(c *client) { c.transmit().forever(request(nbd.CmdRead, 0, 64<<10)) },
	"long reads":                   func(c *client) { c.transmit().forever(request(nbd.CmdRead, 0, 64<<20)) },
	"long reads in one chunk":      func(c *client) { c.transmit().forever(request(nbd.CmdRead, nbd.CmdFlagDF, 64<<20)) },
	"extent maps":                  func(c *client) { c.transmit().forever(request(nbd.CmdBlockStatus, 0, 64<<20)) },
	"caches":                       func(c *client) { c.transmit().forever(request(nbd.CmdCache, 0, 64<<20)) },
	"flushes":                      func(c *client) { c.transmit().forever(request(nbd.CmdFlush, 0, 0)) },
	"refused requests":             func(c *client) { c.transmit().forever(request(99, 0, 0)) },
	"half-closed in the handshake": func(c *client) { c.once([]byte{0, 0, 0, 3}); c.halfClose() },
	"half-closed behind reads": func(c *client) {
		c.transmit().once(slices.Repeat(request(nbd.CmdRead, 0, 1<<20), 20))
		c.halfClose()
	},
	"half-closed in a payload": func(c *client) {
		c.transmit().once(slices.Concat(request(nbd.CmdWrite, 0, 1<<20), make([]byte, 1<<10)))
		c.halfClose()
	},
}

func (c *client) halfClose() { _ = c.Conn.(*net.UnixConn).CloseWrite() }

// The most that one client may cost.
const (
	goroutinesEach = 256 + 10 // one for each request that takes long, and the session's own
	memoryEach     = wire.DefaultBudget + 1<<20
)

// serveWell plays a client that behaves.
func (c *client) serveWell(rounds int) {
	c.t.Helper()
	_ = c.SetDeadline(time.Now().Add(patience))
	for range rounds {
		c.writeOneByte()
		c.send(nbd.CmdRead, 4096)
		c.wantErrno(0)
		c.take(4096)
		c.send(nbd.CmdFlush, 0)
		c.wantErrno(0)
	}
}

// TestAbuseIsBounded has a client of each kind, all at once. They cost what each
// client may cost and not more, others are served meanwhile, and in the end all of
// their places, descriptors and goroutines are free again.
func TestAbuseIsBounded(t *testing.T) {
	r := start(t, func(c *Config, _ *export.Options, _ *disk) {
		c.MaxClients = len(abuses) + 2
		c.HandshakeTimeout = 2 * time.Second
		c.RequestTimeout = 3 * time.Second
	})
	good := r.dial().enter()
	good.serveWell(1)
	descriptors, goroutines, memory := openDescriptors(t), runtime.NumGoroutine(), heap()

	var abusers sync.WaitGroup
	var theirs []*client
	for _, abuse := range abuses {
		c := r.dial()
		theirs = append(theirs, c)
		abusers.Go(func() { abuse(c) })
	}
	good.serveWell(20)
	newcomer := r.dial().enter()
	newcomer.serveWell(20)
	if n, most := runtime.NumGoroutine(), goroutines+len(theirs)*(goroutinesEach+1); n > most { // one is the test's
		t.Errorf("%d goroutines, at most %d are fine", n, most)
	}
	if n, most := heap()-memory, int64(len(theirs)*memoryEach); n > most {
		t.Errorf("%d bytes of memory, at most %d are fine", n, most)
	}
	_ = newcomer.Close()

	eventually(t, "all abusers are disconnected", func() bool { return r.Clients() == 1 })
	good.serveWell(1)
	for _, c := range theirs {
		_ = c.Close()
	}
	abusers.Wait()
	eventually(t, "their goroutines have ended", func() bool { return runtime.NumGoroutine() <= goroutines })
	if n := openDescriptors(t); n > descriptors {
		t.Errorf("%d descriptors are open, %d were", n, descriptors)
	}
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// heap is the memory in use.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestSilentClientsDoNotKeepTheirPlaces fills a server with clients that never finish
// their handshake: it lets others in again when their time is up (CVE-2024-7409).
func TestSilentClientsDoNotKeepTheirPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		began := time.Now()
		for range 10 {
			r.connect("10.0.0.1:1")
		}
		r.connect("10.0.0.2:1").wantEnd()
		synctest.Wait()
		if got := r.Clients(); got != 10 {
			t.Errorf("%d clients", got)
		}
		for r.Clients() > 0 && time.Since(began) < time.Hour {
			time.Sleep(time.Second)
			synctest.Wait()
		}
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("they were disconnected after %v", took)
		}
		c := r.connect("10.0.0.2:2").enter()
		c.send(nbd.CmdFlush, 0)
		c.wantErrno(0)
	})
}

// TestKillswitchDisconnectsOneClient and no other.
func TestKillswitchDisconnectsOneClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, func(c *Config, _ *export.Options, _ *disk) { c.RequestTimeout = 2 * time.Minute })
		slow, good := r.connect("10.0.0.1:1").enter(), r.connect("10.0.0.1:2").enter()
		slow.send(nbd.CmdWrite, 4096)
		began := time.Now()
		slow.wantEnd()
		if took := time.Since(began); took != 2*time.Minute {
			t.Errorf("the client was disconnected after %v", took)
		}
		good.send(nbd.CmdFlush, 0)
		good.wantErrno(0)
		synctest.Wait()
		if got := r.Clients(); got != 1 {
			t.Errorf("%d clients", got)
		}
	})
}
