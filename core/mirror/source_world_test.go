// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/core/owner"
	"github.com/flexnbd/flexnbd/core/owner/crashfs"
	"github.com/flexnbd/flexnbd/core/session"
	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// watchedStore is a disk whose reads, writes and flushes a test can stop and fail.
type watchedStore struct {
	store.Store
	read  atomic.Pointer[func(off int64) error]
	write atomic.Pointer[func(off int64, p []byte) error] // before each
	flush atomic.Pointer[func() error]
}

func (s *watchedStore) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	if f := s.write.Load(); f != nil {
		if err := (*f)(off, p); err != nil {
			return err
		}
	}
	return s.Store.WriteAt(ctx, p, off, flags)
}

func (s *watchedStore) ReadAt(ctx context.Context, p []byte, off int64) error {
	if f := s.read.Load(); f != nil {
		if err := (*f)(off); err != nil {
			return err
		}
	}
	return s.Store.ReadAt(ctx, p, off)
}

func (s *watchedStore) Flush(ctx context.Context) error {
	if f := s.flush.Load(); f != nil {
		if err := (*f)(); err != nil {
			return err
		}
	}
	return s.Store.Flush(ctx)
}

func content(t *testing.T, s store.Store) []byte {
	t.Helper()
	p := make([]byte, s.Info().Size)
	must(t, s.ReadAt(context.Background(), p, 0))
	return p
}

func newExport(t *testing.T, size int64) (*watchedStore, *export.Export) {
	t.Helper()
	disk := &watchedStore{Store: memstore.New(size)}
	e, err := export.Open(context.Background(), disk, export.Options{})
	must(t, err)
	return disk, e
}

func newRecords(t *testing.T) (*hookFS, *owner.Records) {
	t.Helper()
	fs := crashfs.New()
	fs.MkdirAll(place.Dir)
	hooked := &hookFS{FS: fs}
	records, err := owner.Open(hooked, place)
	must(t, err)
	return hooked, records
}

func testLog(t *testing.T) hclog.Logger {
	if !testing.Verbose() {
		return nil
	}
	return hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: os.Stderr, Name: t.Name()})
}

// origin is the server that has the disk, without a socket of its own.
type origin struct {
	t       *testing.T
	disk    *watchedStore
	export  *export.Export
	fs      *hookFS
	records *owner.Records
	source  *Source
	dials   atomic.Int64
	from    atomic.Pointer[transport.Address] // of the latest
	steps   steps
	links   links
	clients []wire.Queue
}

// steps is what was done, in order.
type steps struct {
	mu   sync.Mutex
	list []string
}

func (s *steps) add(step string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, step)
}

func (s *steps) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.list, " ")
}

func newOrigin(t *testing.T, size int64) *origin {
	t.Helper()
	o := &origin{t: t}
	o.disk, o.export = newExport(t, size)
	o.fs, o.records = newRecords(t)
	o.open(o.records)
	t.Cleanup(func() {
		o.source.Close()
		o.links.thaw()
		o.export.Gate().Close()
		for _, q := range o.clients {
			must(t, q.Close())
		}
		must(t, o.export.Close(context.Background()))
	})
	return o
}

func (o *origin) open(records *owner.Records) {
	o.source = NewSource(SourceConfig{
		Export: o.export, Records: records, RecordsError: errors.New("nowhere to write"),
		Dial: func(ctx context.Context, to, from transport.Address) (net.Conn, error) {
			o.dials.Add(1)
			o.from.Store(&from)
			var d net.Dialer
			c, err := d.DialContext(ctx, "tcp", to.String())
			if err != nil {
				return nil, err
			}
			return o.links.add(c), nil
		},
		Leave:  func(context.Context) error { o.steps.add("leave"); return nil },
		Cut:    func() { o.steps.add("cut") },
		Unlink: func(context.Context) error { o.steps.add("unlink"); return nil },
		Log:    testLog(o.t),
	})
	o.source.patience.retry = 50 * time.Millisecond
}

// start orders a migration that must begin.
func (o *origin) start(order Order) {
	o.t.Helper()
	must(o.t, o.source.Start(context.Background(), order))
}

func (o *origin) wait() (Outcome, error) {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	outcome, err := o.source.Wait(ctx)
	if ctx.Err() != nil {
		o.t.Fatalf("the migration does not end: %+v", o.source.Status())
	}
	return outcome, err
}

// migrated waits for the disk to be given away.
func (o *origin) migrated() Outcome {
	o.t.Helper()
	outcome, err := o.wait()
	if err != nil || outcome.Kind != Migrated || outcome.Leftover != nil {
		o.t.Fatalf("the migration ended with %+v, %v", outcome, err)
	}
	arrived(o.t, o.source.Departed(), "the disk to be gone")
	if got := o.steps.String(); !strings.HasPrefix(got, "leave cut") {
		o.t.Fatalf("what was done is %q", got)
	}
	if v := o.records.State().Verdict(); v != owner.VerdictDeparted {
		o.t.Fatalf("the records say %v", v)
	}
	if err := o.newClient().write(0, []byte{1}); !errors.Is(err, export.ErrMovedAway) {
		o.t.Fatalf("a write at the old home: %v", err)
	}
	return outcome
}

// state waits for the migration to be in a state.
func (o *origin) state(want SourceState) {
	o.t.Helper()
	defer func() {
		if o.t.Failed() {
			o.t.Logf("it is %+v", o.source.Status())
		}
	}()
	eventually(o.t, string(want), func() bool { return o.source.Status().State == want })
}

// serves checks that clients are let in.
func (o *origin) serves() {
	o.t.Helper()
	c := o.newClient()
	select {
	case err := <-later(func() error { return c.write(0, []byte{0}) }):
		must(o.t, err)
	case <-time.After(5 * time.Second):
		o.t.Fatal("the gate is shut")
	}
}

// fill writes random data to a range.
func (o *origin) fill(off, length int64, seed uint64) { fill(o.t, o.export, off, length, seed) }

func (d *target) fill(off, length int64, seed uint64) { fill(d.t, d.export, off, length, seed) }

func fill(t *testing.T, e *export.Export, off, length int64, seed uint64) {
	t.Helper()
	u := newUser(t, e)
	for p := random(length, seed); len(p) > 0; {
		n := min(len(p), wire.MaxPayload)
		must(t, u.write(off, p[:n]))
		p, off = p[n:], off+int64(n)
	}
	must(t, u.queue.Close())
}

func random(length int64, seed uint64) []byte {
	p := make([]byte, length)
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	_, _ = rand.NewChaCha8(key).Read(p)
	return p
}

// user is a client of the source, one request at a time.
type user struct {
	queue wire.Queue
	done  chan *wire.Request
}

func (o *origin) newClient() *user {
	u := newUser(o.t, o.export)
	o.clients = append(o.clients, u.queue)
	return u
}

func newUser(t *testing.T, e *export.Export) *user {
	u := &user{done: make(chan *wire.Request, 1)}
	u.queue = e.NewQueue(t.Context(), func(done []*wire.Request) {
		for _, r := range done {
			u.done <- r
		}
	})
	return u
}

func (u *user) write(off int64, p []byte) error {
	payload, err := u.queue.Borrow(context.Background(), len(p))
	if err != nil {
		return err
	}
	defer u.queue.Return(payload)
	copy(payload.Bytes, p)
	u.queue.Submit([]*wire.Request{{Op: wire.OpWrite, Offset: off, Length: int64(len(p)), Data: payload}})
	return (<-u.done).Err
}

func (u *user) zero(off, length int64, flags store.Flags) error {
	u.queue.Submit([]*wire.Request{{Op: wire.OpZero, Offset: off, Length: length, Flags: flags}})
	return (<-u.done).Err
}

func (u *user) flush() error {
	u.queue.Submit([]*wire.Request{{Op: wire.OpFlush}})
	return (<-u.done).Err
}

// load is clients that write at random until they are told to stop or the disk has
// moved away.
type load struct {
	stop    chan struct{}
	group   sync.WaitGroup
	slowest atomic.Int64 // ns
	bytes   atomic.Int64
	mu      sync.Mutex
	failed  error
}

func (o *origin) load(clients int, from, to int64, most int, pause time.Duration) *load {
	l := &load{stop: make(chan struct{})}
	for i := range clients {
		u := o.newClient()
		r := rand.New(rand.NewPCG(uint64(i), uint64(from)))
		l.group.Go(func() { l.run(u, r, from, to, most, pause) })
	}
	return l
}

func (l *load) run(u *user, r *rand.Rand, from, to int64, most int, pause time.Duration) {
	for {
		select {
		case <-l.stop:
			return
		default:
		}
		length := min(1+r.Int64N(int64(most)), to-from)
		off := from + r.Int64N(to-from-length+1)
		began := time.Now()
		var err error
		switch n := r.IntN(20); n {
		case 0:
			err = u.zero(off, length, 0)
		case 1:
			err = u.zero(off, length, store.Discard)
		default:
			err = u.write(off, bytes.Repeat([]byte{byte(r.Uint32())}, int(length)))
		}
		took := int64(time.Since(began))
		for old := l.slowest.Load(); took > old && !l.slowest.CompareAndSwap(old, took); old = l.slowest.Load() {
		}
		l.bytes.Add(length)
		if err != nil {
			if !errors.Is(err, export.ErrMovedAway) {
				l.mu.Lock()
				l.failed = err
				l.mu.Unlock()
			}
			return
		}
		if pause > 0 {
			time.Sleep(pause)
		}
	}
}

// end stops the clients. Once the disk has moved away they have stopped by themselves.
func (l *load) end(t *testing.T, slowest time.Duration) {
	t.Helper()
	close(l.stop)
	l.group.Wait()
	if l.failed != nil {
		t.Fatalf("a client's request failed: %v", l.failed)
	}
	if took := time.Duration(l.slowest.Load()); took > slowest {
		t.Fatalf("a client's request took %v", took)
	}
}

// links are the source's connections, which a test can freeze and break.
type links struct {
	mu     sync.Mutex
	frozen chan struct{} // nil: not frozen; closed by thaw
	delay  time.Duration // of each write to the destination
	open   []*link
	sent   atomic.Int64
}

type link struct {
	net.Conn
	of     *links
	closed chan struct{}
	once   sync.Once
}

func (l *links) add(c net.Conn) net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := &link{Conn: c, of: l, closed: make(chan struct{})}
	l.open = append(l.open, k)
	return k
}

func (l *links) freeze() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.frozen = make(chan struct{})
}

func (l *links) thaw() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.frozen != nil {
		close(l.frozen)
		l.frozen = nil
	}
}

func (l *links) slow(delay time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.delay = delay
}

// cut breaks every connection.
func (l *links) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range l.open {
		_ = k.Conn.Close()
	}
	l.open = nil
}

func (k *link) Write(p []byte) (int, error) {
	k.of.mu.Lock()
	frozen, delay := k.of.frozen, k.of.delay
	k.of.mu.Unlock()
	if frozen != nil {
		select {
		case <-frozen:
		case <-k.closed:
			return 0, net.ErrClosed
		}
	}
	if delay > 0 {
		time.Sleep(delay)
	}
	n, err := k.Conn.Write(p)
	k.of.sent.Add(int64(n))
	return n, err
}

func (k *link) Close() error {
	k.once.Do(func() { close(k.closed) })
	return k.Conn.Close()
}

// target is the server that gets the disk.
type target struct {
	t           *testing.T
	disk        *watchedStore
	export      *export.Export
	fs          *hookFS
	records     *owner.Records
	destination *Destination
	meddler     *meddler                // of destination
	served      atomic.Pointer[meddler] // what the sessions ask; nil: they know no migrations
	address     transport.Address
	listener    net.Listener
	handshake   session.Handshake

	sessions sync.WaitGroup
	cut      context.CancelFunc
	ctx      context.Context
}

type targetKind int

const (
	listens targetKind = iota // flexnbd listen
	old                       // flexnbd listen --handshake oldstyle
	foreign                   // an NBD server without the option
	serving                   // flexnbd serve
)

func newTarget(t *testing.T, size int64, kind targetKind) *target {
	t.Helper()
	d := &target{t: t}
	d.disk, d.export = newExport(t, size)
	d.fs, d.records = newRecords(t)
	if kind == old {
		d.handshake = session.Oldstyle
	}
	switch kind {
	case listens, old:
		must(t, d.records.Expect())
		d.destination = NewDestination(DestinationConfig{Export: d.export, Records: d.records, Waiting: true, Handshake: d.handshake, Log: testLog(t)})
	case serving:
		d.destination = NewDestination(DestinationConfig{Export: d.export, Records: d.records})
	}
	if d.destination != nil {
		d.meddler = &meddler{Migration: d.destination}
		d.served.Store(d.meddler)
	}
	d.listen("127.0.0.1:0")
	t.Cleanup(d.close)
	return d
}

func (d *target) listen(addr string) {
	var err error
	d.listener, err = net.Listen("tcp", addr)
	must(d.t, err)
	at := d.listener.Addr().(*net.TCPAddr)
	d.address = transport.Address{Addr: at.IP.String(), Port: uint16(at.Port)}
	d.ctx, d.cut = context.WithCancel(context.Background())
	listener, ctx := d.listener, d.ctx
	d.sessions.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			d.sessions.Go(func() { d.serve(ctx, c) })
		}
	})
}

func (d *target) serve(ctx context.Context, c net.Conn) {
	config := session.Config{Export: d.export, Log: hclog.NewNullLogger(), Handshake: d.handshake, Peer: c.RemoteAddr().String(), Stopping: make(chan struct{})}
	if m := d.served.Load(); m != nil {
		config.Migration = m
	}
	_ = session.Serve(ctx, c, config)
}

// vanish ends every connection and listens no more.
func (d *target) vanish() {
	_ = d.listener.Close()
	d.cut()
	d.sessions.Wait()
}

func (d *target) close() {
	if d.destination != nil {
		d.destination.Close()
	}
	d.vanish()
	must(d.t, d.export.Close(context.Background()))
}

// equals checks that both sides have the same bytes.
func (d *target) equals(o *origin) {
	d.t.Helper()
	here, there := content(d.t, o.disk.Store), content(d.t, d.disk.Store)
	if bytes.Equal(here, there) {
		return
	}
	for i := range here {
		if here[i] != there[i] {
			d.t.Fatalf("the disks differ from byte %d on: %d at the source, %d at the destination", i, here[i], there[i])
		}
	}
}

// owns checks that the destination has taken the disk over.
func (d *target) owns() {
	d.t.Helper()
	arrived(d.t, d.destination.Owned(), "the destination to own the disk")
	if v := d.records.State().Verdict(); v != owner.VerdictOwner {
		d.t.Fatalf("the destination's records say %v", v)
	}
}

// doesNotOwn checks that the destination still waits.
func (d *target) doesNotOwn() {
	d.t.Helper()
	if d.destination.HasControl() {
		d.t.Fatal("the destination has taken the disk over")
	}
}

// meddler changes what a destination answers.
type meddler struct {
	session.Migration
	mu      sync.Mutex
	hello   func() error
	prepare func(link session.Link, real func() error) error
	commit  func(link session.Link, real func() error) error
	begin   func(off, length int64) error
}

func (m *meddler) Hello(ctx context.Context, hello nbd.MigrationHello, link session.Link) (session.Sender, nbd.MigrationAnswer, error) {
	m.mu.Lock()
	before := m.hello
	m.mu.Unlock()
	if before != nil {
		if err := before(); err != nil {
			return nil, nbd.MigrationAnswer{}, err
		}
	}
	s, a, err := m.Migration.Hello(ctx, hello, link)
	if err != nil {
		return nil, a, err
	}
	return &meddled{Sender: s, m: m, link: link}, a, nil
}

type meddled struct {
	session.Sender
	m    *meddler
	link session.Link
}

func (s *meddled) Begin(off, length int64) error {
	s.m.mu.Lock()
	before := s.m.begin
	s.m.mu.Unlock()
	if before != nil {
		if err := before(off, length); err != nil {
			return err
		}
	}
	return s.Sender.Begin(off, length)
}

func (s *meddled) Prepare(ctx context.Context) error {
	s.m.mu.Lock()
	instead := s.m.prepare
	s.m.mu.Unlock()
	if instead == nil {
		return s.Sender.Prepare(ctx)
	}
	return instead(s.link, func() error { return s.Sender.Prepare(ctx) })
}

func (s *meddled) Commit(ctx context.Context) error {
	s.m.mu.Lock()
	instead := s.m.commit
	s.m.mu.Unlock()
	if instead == nil {
		return s.Sender.Commit(ctx)
	}
	return instead(s.link, func() error { return s.Sender.Commit(ctx) })
}

// silent is a server that accepts, says what it is given, and nothing more.
func silent(t *testing.T, says []byte, hangUp bool) transport.Address {
	t.Helper()
	return handling(t, func(c net.Conn) {
		_, _ = c.Write(says)
		if !hangUp {
			_, _ = io.Copy(io.Discard, c)
		}
	})
}

// handling is a server that does one thing with each connection.
func handling(t *testing.T, handle func(net.Conn)) transport.Address {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var group sync.WaitGroup
	group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer func() { _ = c.Close() }()
				handle(c)
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); group.Wait() })
	at := l.Addr().(*net.TCPAddr)
	return transport.Address{Addr: at.IP.String(), Port: uint16(at.Port)}
}

var errMeddled = fmt.Errorf("the test says no: %w", nbd.EIO)
