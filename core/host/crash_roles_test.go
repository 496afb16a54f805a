// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/flexnbd/flexnbd/sdk"
	"github.com/flexnbd/flexnbd/sdk/fdstore"
	"github.com/flexnbd/flexnbd/sdk/netlistener"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

func init() {
	roles["test-script"] = func() { serveBackend(openScripted) }
	roles["test-mute"] = serveMute
	roles["test-listener"] = func() { sdk.ServeTransport(sdk.Transport{Name: "test", Transport: scriptedTransport{}}) }
}

// script is a folder in which a test leaves orders for plugins, as files:
//
//	hold.OP    the next OP never returns, and leaves reached.OP to say so
//	keep.OP    the same after OP has been done
//	fail.OP    every OP fails
//	hang.OP    no OP returns
//	exit.OP    every OP ends the process
//
// and, about the loan of its descriptor:
//
//	revoke.extents  the next extents has it taken back meanwhile
//	no.loan         the next process lends nothing
//	bad.loan        the next process lends what can't be used
//
// Plugins note what they do in the file journal.
type script string

func (s script) path(order, op string) string { return filepath.Join(string(s), order+"."+op) }

func (s script) has(order, op string) bool {
	_, err := os.Stat(s.path(order, op))
	return err == nil
}

func (s script) note(line string) {
	f, err := os.OpenFile(filepath.Join(string(s), "journal"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err == nil {
		_, _ = f.WriteString(line + "\n")
		_ = f.Close()
	}
}

func (s script) follow(op string) error {
	s.note(op)
	switch {
	case os.Remove(s.path("hold", op)) == nil:
		s.reached(op)
	case s.has("hang", op):
		time.Sleep(time.Hour)
	case s.has("exit", op):
		os.Exit(7)
	case s.has("fail", op):
		return errors.New("told to fail")
	}
	return nil
}

func (s script) done(op string, err error) error {
	if os.Remove(s.path("keep", op)) == nil {
		s.reached(op)
	}
	return err
}

func (s script) reached(op string) {
	_ = os.WriteFile(s.path("reached", op), nil, 0o600)
	time.Sleep(time.Hour)
}

// scripted is a file that follows a script.
type scripted struct {
	*fdstore.Store
	script script
	info   store.Info
	lease  *os.File
	loan   *store.Loan

	revoking sync.WaitGroup
}

func openScripted(_ context.Context, disk sdk.Disk) (store.Store, error) {
	s := script(disk.Options["script"])
	if disk.Lease != nil {
		s.note("lease")
	}
	if err := s.follow("open"); err != nil {
		return nil, err
	}
	return openFollowing(s, disk)
}

func openFollowing(s script, disk sdk.Disk) (store.Store, error) {
	var file *fdstore.Store
	var err error
	if disk.Lease != nil && disk.Options["lease"] == "" {
		file, err = fdstore.Reopen(disk.Lease, disk.Location, fdstore.Options{})
	} else {
		var f *os.File
		if f, err = os.OpenFile(disk.Location, os.O_RDWR, 0); err != nil {
			return nil, err
		}
		file, err = fdstore.New(f, fdstore.Options{})
	}
	if err != nil {
		return nil, err
	}
	d := &scripted{Store: file, script: s, info: file.Info(), lease: file.Lease()}
	if other := disk.Options["lease"]; other != "" && other != "none" {
		if d.lease, err = os.Open(other); err != nil {
			return nil, err
		}
	}
	if n, err := strconv.Atoi(disk.Options["survives"]); err == nil {
		d.info.Survives = store.Survival(n)
	}
	d.info.Replayable = disk.Options["replayable"] != "no"
	d.info.CanFast = !s.has("no", "fast")
	if err := d.makeLoan(disk.Location); err != nil || disk.Options["lease"] != "none" {
		return d, err
	}
	return struct{ store.Lender }{d}, nil // without the method Lease
}

func (d *scripted) makeLoan(location string) error {
	switch {
	case d.script.has("no", "loan"):
	case d.script.has("bad", "loan"):
		f, err := os.Open(location) // for reading only
		if err != nil {
			return err
		}
		d.loan = store.NewLoan(f)
	default:
		d.loan = d.Store.Lend()
	}
	return nil
}

func (d *scripted) Info() store.Info { return d.info }
func (d *scripted) Lease() *os.File  { return d.lease }

func (d *scripted) Lend() *store.Loan { return d.loan }

// revoke takes the loan back and notes when it begins to and when it is done.
func (d *scripted) revoke() {
	d.script.note("revoking")
	if err := d.loan.Revoke(context.Background()); err == nil {
		d.script.note("revoked")
	}
}

func (d *scripted) Close() error {
	d.revoking.Wait()
	return d.Store.Close()
}

func (d *scripted) ReadAt(ctx context.Context, p []byte, off int64) error {
	return errors.Join(d.script.follow("read"), d.script.done("read", d.Store.ReadAt(ctx, p, off)))
}

func (d *scripted) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	return errors.Join(d.script.follow("write"), d.script.done("write", d.Store.WriteAt(ctx, p, off, flags)))
}

func (d *scripted) PunchHole(ctx context.Context, off, length int64, flags store.Flags) error {
	return errors.Join(d.script.follow("punch"), d.script.done("punch", d.Store.PunchHole(ctx, off, length, flags)))
}

func (d *scripted) Extents(ctx context.Context, off, length int64) ([]store.Extent, error) {
	if os.Remove(d.script.path("revoke", "extents")) == nil {
		d.revoking.Go(d.revoke)
	}
	if err := d.script.follow("extents"); err != nil {
		return nil, err
	}
	return d.Store.Extents(ctx, off, length)
}

func (d *scripted) Flush(ctx context.Context) error {
	return errors.Join(d.script.follow("flush"), d.script.done("flush", d.Store.Flush(ctx)))
}

// serveMute serves a scripted disk and a scripted transport, whichever its
// arguments say, and does not say what it is while the script says hang.describe.
// Its standard output is descriptor 9, see shelled.
func serveMute() {
	s := script(os.Args[2])
	channel, err := wire.NewDescriptorChannel(os.NewFile(3, "descriptor-channel"))
	if err != nil {
		os.Exit(5)
	}
	go func() {
		<-channel.Done()
		os.Exit(0)
	}()
	served := wire.Served{Description: wire.Description{Kind: wire.KindBackend, Name: "test"}, Open: openScripted, Descriptors: channel}
	if os.Args[1] == "transport" {
		served.Description.Kind = wire.KindTransport
		served.Open, served.Transport = nil, scriptedTransport{s}
	}
	config := wire.ServeConfig(served)
	config.GRPCServer = func(opts []grpc.ServerOption) *grpc.Server {
		return wire.NewServer(append(opts, grpc.UnaryInterceptor(
			func(ctx context.Context, r any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
				if filepath.Base(info.FullMethod) == "Describe" {
					_ = s.follow("describe")
				}
				return handle(ctx, r)
			})))
	}
	os.Stdout = os.NewFile(9, "stdout")
	plugin.Serve(config)
}

// scriptedTransport listens at TCP ports, dials them, and follows a script, which it
// finds in its process's arguments.
type scriptedTransport struct{ script script }

func (t scriptedTransport) scripted() scriptedTransport {
	if t.script == "" {
		t.script = script(os.Args[1])
	}
	return t
}

func (t scriptedTransport) Listen(ctx context.Context, addr transport.Address) (transport.Listener, error) {
	t = t.scripted()
	if err := t.script.follow("listen"); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", addr.String())
	if err != nil {
		return nil, err
	}
	bound := l.Addr().(*net.TCPAddr)
	return scriptedListener{netlistener.New(l.(*net.TCPListener), netlistener.Config{
		Address: transport.Address{Addr: bound.IP.String(), Port: uint16(bound.Port)},
		Peer: func(c net.Conn) transport.Peer {
			return transport.Peer{Network: "tcp", Address: c.RemoteAddr().String()}
		},
		Log: sdk.Logger,
	}), t.script}, nil
}

func (t scriptedTransport) Dial(ctx context.Context, addr, _ transport.Address) (transport.Conn, error) {
	if err := t.scripted().script.follow("dial"); err != nil {
		return transport.Conn{}, err
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", addr.String())
	return transport.Conn{Socket: conn}, err
}

type scriptedListener struct {
	transport.Listener
	script script
}

func (l scriptedListener) Accept(ctx context.Context) (transport.Conn, error) {
	conn, err := l.Listener.Accept(ctx)
	if fail := l.script.follow("accept"); fail != nil && err == nil {
		_ = conn.Socket.Close()
		return transport.Conn{}, fail
	}
	return conn, err
}
