// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/flexnbd/flexnbd/core/acl"
	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 60 * time.Second

// journal is what happened, in order.
type journal struct {
	mu     sync.Mutex
	events []string
}

func (j *journal) note(event string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.events = append(j.events, event)
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.events)
}

// listener hands out what a test puts into it.
type listener struct {
	*journal
	conns  chan transport.Conn
	broken chan error
	// late is handed out by the Accept that finds its context ended.
	late chan transport.Conn
}

func (l *listener) Accept(ctx context.Context) (transport.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case err := <-l.broken:
		return transport.Conn{}, err
	case <-ctx.Done():
	}
	select {
	case c := <-l.late:
		return c, nil
	default:
		return transport.Conn{}, ctx.Err()
	}
}

func (l *listener) Address() transport.Address { return transport.Address{} }

func (l *listener) Close() error {
	l.note("listener closed")
	return nil
}

// disk is a memstore that notes reads and flushes.
type disk struct {
	*memstore.Store
	*journal
	blocked  chan struct{} // reads wait until it is closed; nil if they need not
	entered  chan struct{}
	flushErr error
}

func (d *disk) ReadAt(ctx context.Context, p []byte, off int64) error {
	if d.blocked != nil {
		d.entered <- struct{}{}
		<-d.blocked
	}
	d.note("read")
	return d.Store.ReadAt(ctx, p, off)
}

func (d *disk) Flush(context.Context) error {
	d.note("flush")
	return d.flushErr
}

// rig is a running server.
type rig struct {
	t *testing.T
	*Server
	*journal
	*listener
	disk        *disk
	stop, force context.CancelFunc
	done        chan error
	abandoned   chan struct{} // closed by Abandon
}

// start runs a server; change may alter what it is made of.
func start(t *testing.T, change func(*Config, *export.Options, *disk)) *rig {
	t.Helper()
	j := &journal{}
	r := &rig{
		t: t, journal: j,
		listener:  &listener{journal: j, conns: make(chan transport.Conn), broken: make(chan error), late: make(chan transport.Conn, 1)},
		disk:      &disk{Store: memstore.New(64 << 20), journal: j, entered: make(chan struct{}, 100)},
		done:      make(chan error, 1),
		abandoned: make(chan struct{}),
	}
	config := Config{
		Listener: r.listener, MaxClients: 10, Log: hclog.NewNullLogger(),
		Abandon: sync.OnceFunc(func() { r.note("abandoned"); close(r.abandoned) }),
	}
	var options export.Options
	if change != nil {
		change(&config, &options, r.disk)
	}
	e, err := export.Open(context.Background(), r.disk, options)
	if err != nil {
		t.Fatal(err)
	}
	config.Export = e
	r.Server = New(config)
	stop, cancelStop := context.WithCancel(context.Background())
	force, cancelForce := context.WithCancel(context.Background())
	r.stop, r.force = cancelStop, cancelForce
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.done <- r.Run(stop, force)
	}()
	t.Cleanup(func() {
		cancelStop()
		cancelForce()
		<-ended
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return r
}

// result returns what Run returned.
func (r *rig) result() error {
	r.t.Helper()
	select {
	case err := <-r.done:
		return err
	case <-time.After(patience):
		r.t.Fatal("Run does not return")
		return nil
	}
}

// connect makes a connection from an address and returns the client's end.
func (r *rig) connect(from string) *client {
	near, far := net.Pipe()
	r.conns <- transport.Conn{Socket: far, Peer: transport.Peer{Network: "tcp", Address: from}}
	c := &client{r.t, near}
	r.t.Cleanup(func() { near.Close() })
	return c
}

type client struct {
	t *testing.T
	net.Conn
}

func (c *client) say(b []byte) {
	c.t.Helper()
	if _, err := c.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) take(n int) []byte {
	c.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c, b); err != nil {
		c.t.Fatal(err)
	}
	return b
}

// enter plays the handshake.
func (c *client) enter() *client {
	c.t.Helper()
	c.take(nbd.GreetingSize)
	c.say(nbd.AppendClientFlags(nil, nbd.FlagClientFixedNewstyle|nbd.FlagClientNoZeroes))
	c.say(nbd.AppendOption(nil, nbd.OptExportName, nil))
	c.take(nbd.ExportNameReplySize)
	return c
}

func (c *client) send(cmd nbd.Command, length uint32) {
	c.t.Helper()
	c.say(nbd.AppendRequest(nil, nbd.Request{Command: cmd, Length: length}))
}

func (c *client) wantErrno(want nbd.Errno) {
	c.t.Helper()
	reply, err := nbd.DecodeSimpleReply(c.take(nbd.SimpleReplySize))
	if err != nil || reply.Errno != want {
		c.t.Fatalf("got %+v, %v, want %v", reply, err, want)
	}
}

// writeOneByte writes something, so that the disk's first block is not known to
// be zero and reads of it reach the store.
func (c *client) writeOneByte() {
	c.t.Helper()
	c.send(nbd.CmdWrite, 1)
	c.say([]byte{1})
	c.wantErrno(0)
}

// wantEnd checks that the server hangs up without another word.
func (c *client) wantEnd() {
	c.t.Helper()
	if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
		c.t.Fatalf("got %x, %v where the server should have hung up", rest, err)
	}
}

// eventually waits until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func TestStopOfAnIdleServer(t *testing.T) {
	r := start(t, nil)
	c := r.connect("10.0.0.1:1").enter()
	r.stop()
	c.wantEnd()
	if err := r.result(); err != nil {
		t.Error(err)
	}
	if got, want := r.all(), []string{"listener closed", "flush"}; !slices.Equal(got, want) {
		t.Errorf("what happened is %v, want %v", got, want)
	}
}

// TestOrderOfTheEnd stops a server with a request in flight.
func TestOrderOfTheEnd(t *testing.T) {
	r := start(t, func(_ *Config, _ *export.Options, d *disk) { d.blocked = make(chan struct{}) })
	c := r.connect("10.0.0.1:1").enter()
	c.writeOneByte()
	c.send(nbd.CmdRead, 4096)
	<-r.disk.entered
	r.stop()
	eventually(t, "the listener is closed", func() bool { return slices.Contains(r.all(), "listener closed") })
	close(r.disk.blocked)
	c.wantErrno(0)
	c.take(4096)
	c.wantEnd()
	if err := r.result(); err != nil {
		t.Error(err)
	}
	if got, want := r.all(), []string{"listener closed", "read", "flush"}; !slices.Equal(got, want) {
		t.Errorf("what happened is %v, want %v", got, want)
	}
}

func TestFurtherClientsAreTurnedAway(t *testing.T) {
	r := start(t, func(c *Config, _ *export.Options, _ *disk) { c.MaxClients = 2 })
	first := r.connect("10.0.0.1:1").enter()
	second := r.connect("10.0.0.1:2") // counts in its handshake too
	r.connect("10.0.0.1:3").wantEnd()
	if got := r.Clients(); got != 2 {
		t.Errorf("%d clients", got)
	}
	_ = first.Close()
	eventually(t, "the place is free again", func() bool { return r.Clients() == 1 })
	third := r.connect("10.0.0.1:4").enter()
	third.send(nbd.CmdFlush, 0)
	third.wantErrno(0)
	r.connect("10.0.0.1:5").wantEnd()
	_ = second.Close()
	eventually(t, "the place is free again", func() bool { return r.Clients() == 1 })
	r.connect("10.0.0.1:6").enter()
}

func TestAccessList(t *testing.T) {
	list, err := acl.Parse([]string{"10.0.0.0/8"}, false)
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, func(c *Config, _ *export.Options, _ *disk) { c.ACL = list })
	r.connect("192.168.0.1:1").wantEnd()
	r.connect("not an address").wantEnd()
	r.connect("10.0.0.1:1").enter()
}

// TestBrokenListener checks that the error is returned, and that clients and disk
// are treated as at any other end.
func TestBrokenListener(t *testing.T) {
	broken := errors.New("no such socket any more")
	r := start(t, nil)
	c := r.connect("10.0.0.1:1").enter()
	r.broken <- broken
	c.wantEnd()
	if err := r.result(); !errors.Is(err, broken) {
		t.Errorf("Run returned %v", err)
	}
	if got := r.all(); !slices.Contains(got, "flush") {
		t.Errorf("what happened is %v", got)
	}
}

func TestConnectionThatComesWithTheStop(t *testing.T) {
	r := start(t, nil)
	near, far := net.Pipe()
	defer near.Close()
	r.late <- transport.Conn{Socket: far}
	r.stop()
	(&client{t, near}).wantEnd()
	if err := r.result(); err != nil {
		t.Error(err)
	}
}

func TestFailedFlushIsReported(t *testing.T) {
	r := start(t, func(_ *Config, _ *export.Options, d *disk) { d.flushErr = syscall.EIO })
	r.stop()
	if err := r.result(); !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "flush") {
		t.Errorf("Run returned %v", err)
	}
}

func TestReadOnlyDiskIsNotFlushed(t *testing.T) {
	r := start(t, func(_ *Config, o *export.Options, _ *disk) { o.ReadOnly = true })
	r.stop()
	if err := r.result(); err != nil {
		t.Error(err)
	}
	if got := r.all(); slices.Contains(got, "flush") {
		t.Errorf("what happened is %v", got)
	}
}

// TestClientThatDoesNotReadLosesOnlyItsConnection checks that the disk is flushed
// and the backend left alone when a client keeps a server from stopping.
func TestClientThatDoesNotReadLosesOnlyItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		c := r.connect("10.0.0.1:1").enter()
		c.writeOneByte()
		c.send(nbd.CmdRead, 4096)
		synctest.Wait()
		began := time.Now()
		r.stop()
		if err := r.result(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != DefaultStopTimeout {
			t.Errorf("the client was cut after %v", took)
		}
		if got, want := r.all(), []string{"read", "listener closed", "flush"}; !slices.Equal(got, want) {
			t.Errorf("what happened is %v, want %v", got, want)
		}
		c.wantEnd()
	})
}

// TestBackendThatHangsIsAbandoned does so when it still hangs with all
// connections cut.
func TestBackendThatHangsIsAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, func(c *Config, _ *export.Options, d *disk) {
			c.StopTimeout = time.Minute
			d.blocked = make(chan struct{})
		})
		c := r.connect("10.0.0.1:1").enter()
		c.writeOneByte()
		c.send(nbd.CmdRead, 4096)
		<-r.disk.entered
		began := time.Now()
		r.stop()
		<-r.abandoned
		if took := time.Since(began); took != time.Minute+cutTimeout {
			t.Errorf("the backend was abandoned after %v", took)
		}
		c.wantEnd()
		close(r.disk.blocked)
		if err := r.result(); err == nil {
			t.Error("Run returned nil, though what was acknowledged may be lost")
		}
		if got := r.all(); slices.Contains(got, "flush") {
			t.Errorf("an abandoned backend was flushed: %v", got)
		}
	})
}

func TestForceDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, func(_ *Config, _ *export.Options, d *disk) { d.blocked = make(chan struct{}) })
		c := r.connect("10.0.0.1:1").enter()
		c.writeOneByte()
		c.send(nbd.CmdRead, 4096)
		<-r.disk.entered
		began := time.Now()
		r.stop()
		synctest.Wait()
		r.force()
		<-r.abandoned
		c.wantEnd()
		close(r.disk.blocked)
		if err := r.result(); err == nil {
			t.Error("Run returned nil, though what was acknowledged may be lost")
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %v", took)
		}
	})
}

// TestDiskThatHangsDoesNotKeepTheProcess has a request that not even Abandon ends.
func TestDiskThatHangsDoesNotKeepTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, func(_ *Config, _ *export.Options, d *disk) { d.blocked = make(chan struct{}) })
		c := r.connect("10.0.0.1:1").enter()
		c.writeOneByte()
		c.send(nbd.CmdRead, 4096)
		<-r.disk.entered
		began := time.Now()
		r.stop()
		r.force()
		if err := r.result(); err == nil || !strings.Contains(err.Error(), "hangs in the kernel") {
			t.Errorf("Run returned %v", err)
		}
		if took := time.Since(began); took != cutTimeout {
			t.Errorf("it took %v", took)
		}
		close(r.disk.blocked) // the disk has come back
		c.wantEnd()
		synctest.Wait()
	})
}

// TestSilentClientDoesNotDelayTheEnd has one that is still in its handshake.
func TestSilentClientDoesNotDelayTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		c := r.connect("10.0.0.1:1")
		c.take(nbd.GreetingSize)
		began := time.Now()
		r.stop()
		c.wantEnd()
		if err := r.result(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}
