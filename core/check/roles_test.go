// SPDX-License-Identifier: GPL-3.0-or-later

package check

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"

	"github.com/flexnbd/flexnbd/sdk"
	"github.com/flexnbd/flexnbd/sdk/fdstore"
	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/netlistener"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/transport"
)

// roles are the broken plugins that this binary runs as when its name is one of these.
var roles = map[string]func(){
	"broken-mute":       func() { fmt.Fprintln(os.Stderr, "no licence found") },
	"broken-liar":       func() { serve(func(b *bent) { b.info.PreferredBlock = 3 }) },
	"broken-flip":       func() { serve(func(b *bent) { b.write = flip }) },
	"broken-punch":      func() { serve(func(b *bent) { b.punch = func(*bent) error { return nil } }) },
	"broken-crash":      func() { serve(func(b *bent) { b.punch = func(*bent) error { os.Exit(7); return nil } }) },
	"broken-hang":       func() { serve(func(b *bent) { b.flush = hang }) },
	"broken-errno":      func() { serve(func(b *bent) { b.readOnlyErr = store.ErrIO }) },
	"broken-readonly":   func() { serve(func(b *bent) { b.ignoreReadOnly = true }) },
	"broken-memory":     serveForgetful,
	"broken-cache":      serveCache,
	"broken-loan":       serveOthersFile,
	"broken-transport":  serveNameless,
	"broken-unlistener": func() { sdk.ServeTransport(sdk.Transport{Name: "broken", Transport: nowhere{}}) },
}

// bent is a file with something wrong about it.
type bent struct {
	store.Store
	info           store.Info
	write          func(p []byte) []byte
	punch          func(*bent) error
	flush          func() error
	readOnlyErr    error
	ignoreReadOnly bool
}

func (b *bent) Info() store.Info { return b.info }

func (b *bent) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	if b.info.ReadOnly && b.readOnlyErr != nil {
		return b.readOnlyErr
	}
	if b.write != nil {
		p = b.write(p)
	}
	return b.Store.WriteAt(ctx, p, off, flags)
}

func (b *bent) PunchHole(ctx context.Context, off, length int64, flags store.Flags) error {
	if b.info.ReadOnly && b.readOnlyErr != nil {
		return b.readOnlyErr
	}
	if b.punch != nil {
		return b.punch(b)
	}
	return b.Store.PunchHole(ctx, off, length, flags)
}

func (b *bent) Flush(ctx context.Context) error {
	if b.flush != nil {
		return b.flush()
	}
	return b.Store.Flush(ctx)
}

func flip(p []byte) []byte {
	p = bytes.Clone(p)
	if len(p) > 0 {
		p[len(p)-1] ^= 1
	}
	return p
}

func hang() error { select {} }

// openFile opens the image at a location.
func openFile(location string, readOnly bool) (*fdstore.Store, error) {
	flag := os.O_RDWR
	if readOnly {
		flag = os.O_RDONLY
	}
	f, err := os.OpenFile(location, flag, 0)
	if err != nil {
		return nil, err
	}
	return fdstore.New(f, fdstore.Options{ReadOnly: readOnly})
}

func serveBackend(open func(context.Context, sdk.Disk) (store.Store, error)) {
	sdk.ServeBackend(sdk.Backend{Name: "broken", Version: "1.0", Open: open})
}

// serve serves a file with something wrong about it. It does not lend.
func serve(bend func(*bent)) {
	serveBackend(func(_ context.Context, disk sdk.Disk) (store.Store, error) {
		b := &bent{}
		bend(b)
		file, err := openFile(disk.Location, disk.ReadOnly && !b.ignoreReadOnly)
		if err != nil {
			return nil, err
		}
		b.Store, b.info = file, file.Info()
		bend(b) // once more: the facts
		return b, nil
	})
}

// serveForgetful serves memory that is said to survive.
func serveForgetful() {
	serveBackend(func(_ context.Context, disk sdk.Disk) (store.Store, error) {
		size, err := strconv.ParseInt(disk.Location, 10, 64)
		if err != nil {
			return nil, err
		}
		s := memstore.New(size)
		info := s.Info()
		info.Survives, info.Replayable = store.SurvivesAcknowledged, true
		return &bent{Store: s, info: info}, nil
	})
}

// cache keeps writes in memory until a flush, and says that they survive the process.
type cache struct {
	store.Store
	file store.Store

	mu    sync.Mutex
	dirty [][2]int64
}

func (c *cache) Info() store.Info {
	info := c.file.Info()
	info.Survives = store.SurvivesAcknowledged
	return info
}

func (c *cache) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	if err := c.Store.WriteAt(ctx, p, off, flags); err != nil || flags&store.FUA != 0 {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dirty = append(c.dirty, [2]int64{off, int64(len(p))})
	return nil
}

func (c *cache) Flush(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.dirty {
		p := make([]byte, d[1])
		if err := c.ReadAt(ctx, p, d[0]); err != nil {
			return err
		}
		if err := c.file.WriteAt(ctx, p, d[0], 0); err != nil {
			return err
		}
	}
	c.dirty = nil
	return c.file.Flush(ctx)
}

func (c *cache) Close() error { return c.file.Close() }

func serveCache() {
	serveBackend(func(ctx context.Context, disk sdk.Disk) (store.Store, error) {
		file, err := openFile(disk.Location, disk.ReadOnly)
		if err != nil {
			return nil, err
		}
		c := &cache{Store: memstore.New(file.Info().Size), file: file}
		p := make([]byte, file.Info().Size)
		if err := file.ReadAt(ctx, p, 0); err != nil {
			return nil, err
		}
		return c, c.Store.WriteAt(ctx, p, 0, 0)
	})
}

// othersFile lends a copy of its file.
type othersFile struct {
	*fdstore.Store
	loan *store.Loan
}

func (o *othersFile) Lend() *store.Loan { return o.loan }

func serveOthersFile() {
	serveBackend(func(_ context.Context, disk sdk.Disk) (store.Store, error) {
		file, err := openFile(disk.Location, false)
		if err != nil {
			return nil, err
		}
		other, err := os.OpenFile(disk.Location+".copy", os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		return &othersFile{Store: file, loan: store.NewLoan(other)}, other.Truncate(file.Info().Size)
	})
}

// nameless is TCP that does not say what it is.
type nameless struct{}

func (nameless) Listen(ctx context.Context, addr transport.Address) (transport.Listener, error) {
	var config net.ListenConfig
	socket, err := config.Listen(ctx, "tcp", addr.String())
	if err != nil {
		return nil, err
	}
	at := socket.Addr().(*net.TCPAddr)
	return netlistener.New(socket.(*net.TCPListener), netlistener.Config{
		Address: transport.Address{Addr: at.IP.String(), Port: uint16(at.Port)},
		Peer:    func(net.Conn) transport.Peer { return transport.Peer{Network: "tcp", Address: "somebody"} },
	}), nil
}

func (nameless) Dial(ctx context.Context, addr, _ transport.Address) (transport.Conn, error) {
	var dialer net.Dialer
	socket, err := dialer.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return transport.Conn{}, err
	}
	return transport.Conn{Socket: socket, Peer: transport.Peer{Network: "tcp", Address: addr.String()}}, nil
}

func serveNameless() {
	sdk.ServeTransport(sdk.Transport{Name: "broken", Transport: nameless{}})
}

// nowhere is a transport that reaches nobody.
type nowhere struct{}

func (nowhere) Listen(_ context.Context, addr transport.Address) (transport.Listener, error) {
	return nil, fmt.Errorf("nowhere to listen at %s: %w", addr, store.ErrNotSupported)
}

func (nowhere) Dial(_ context.Context, addr, _ transport.Address) (transport.Conn, error) {
	return transport.Conn{}, fmt.Errorf("nobody at %s: %w", addr, store.ErrNotSupported)
}
