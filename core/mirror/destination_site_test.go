// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

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

const (
	block    = 4 << 10
	blocks   = 8
	diskSize = blocks * block
)

var place = owner.Place{Dir: "/srv", Name: "disk.img"}

// home is where the disk of a site is served.
var home = transport.Address{Addr: "192.0.2.7", Port: 4777}

// site is one machine: a disk and its records, which outlive a process, and the
// process.
type site struct {
	t     *testing.T
	files *crashfs.FS
	disk  *testDisk

	// One process.
	hooks   *hookFS
	export  *export.Export
	records *owner.Records
	conns   []*conn
	*Destination
}

// newSite is a machine that has run listen on a disk without records.
func newSite(t *testing.T) *site {
	s := newMachine(t)
	s.start(nil)
	return s
}

// newMachine is a machine on which nothing runs yet.
func newMachine(t *testing.T) *site {
	s := &site{t: t, files: crashfs.New(), disk: &testDisk{Store: memstore.New(diskSize), durable: make([]byte, diskSize)}}
	s.files.MkdirAll(place.Dir)
	t.Cleanup(s.stop)
	return s
}

// start runs a process, which waits for the disk unless change says otherwise.
func (s *site) start(change func(*DestinationConfig)) {
	s.t.Helper()
	s.hooks = &hookFS{FS: s.files}
	var err error
	if s.records, err = owner.Open(s.hooks, place); err != nil {
		s.t.Fatal(err)
	}
	s.export, err = export.Open(context.Background(), s.disk, export.Options{})
	if err != nil {
		s.t.Fatal(err)
	}
	config := DestinationConfig{Export: s.export, Records: s.records, Waiting: true, Address: func() transport.Address { return home }}
	if change != nil {
		change(&config)
	}
	if config.Waiting {
		if err := s.records.Expect(); err != nil {
			s.t.Fatal(err)
		}
	}
	s.Destination = NewDestination(config)
}

// stop ends the process by its rules.
func (s *site) stop() {
	if s.Destination == nil {
		return
	}
	s.Close()
	for _, c := range s.conns {
		c.end(false)
		c.obeys.Wait()
	}
	s.conns = nil
	if err := s.export.Close(context.Background()); err != nil {
		s.t.Error(err)
	}
	s.Destination = nil
}

// powerCut ends the process with all that was not durable.
func (s *site) powerCut() {
	files := s.files.Crash()
	s.disk.mu.Lock()
	survives := bytes.Clone(s.disk.durable)
	s.disk.mu.Unlock()
	s.stop()
	s.files = files
	s.disk = &testDisk{Store: memstore.New(diskSize), durable: survives}
	if err := s.disk.Store.WriteAt(context.Background(), survives, 0, 0); err != nil {
		s.t.Fatal(err)
	}
}

// durable is what the records would be after a power cut.
func (s *site) durable() owner.State {
	s.t.Helper()
	st, err := owner.Inspect(s.files.Crash(), place)
	if err != nil {
		s.t.Fatal(err)
	}
	return st
}

// wantPrepared checks what the record says, also after a power cut. Zero: plain.
func (s *site) wantPrepared(id owner.ID) {
	s.t.Helper()
	for _, st := range []owner.State{s.records.State(), s.durable()} {
		if st.Incomplete == nil || st.Incomplete.Prepared != id {
			s.t.Fatalf("records are %+v, want one that is prepared for %v", st.Incomplete, id)
		}
	}
}

// wantOwner checks that the disk was taken over by id, durably.
func (s *site) wantOwner(id owner.ID) {
	s.t.Helper()
	st := s.durable()
	if st.Verdict() != owner.VerdictOwner || st.Received == nil || st.Received.ID != id {
		s.t.Fatalf("after a power cut the records would be %+v, want .RECEIVED for %v alone", st, id)
	}
	arrived(s.t, s.Owned(), "Owned to be closed")
	if !s.HasControl() {
		s.t.Fatal("no control after a take-over")
	}
}

// wantWaiting checks that nothing was taken over.
func (s *site) wantWaiting() {
	s.t.Helper()
	if st := s.durable(); st.Incomplete == nil {
		s.t.Fatalf("records are %+v, want .INCOMPLETE", st)
	}
	select {
	case <-s.Owned():
		s.t.Fatal("the disk was taken over")
	default:
	}
	if s.HasControl() || s.Guest() == "" {
		s.t.Fatal("a disk that is waited for is served")
	}
}

// connect is a new connection, cut when the destination says so.
func (s *site) connect(name string) *conn {
	c := s.connectStubborn(name)
	c.obeys.Go(func() {
		select {
		case <-c.cut:
			c.end(false)
		case <-c.ended:
		}
	})
	return c
}

// connectStubborn is a connection of which something may be carried out until the
// test ends it.
func (s *site) connectStubborn(name string) *conn {
	c := &conn{site: s, name: name, cut: make(chan struct{}), ended: make(chan struct{})}
	c.queue = s.export.NewQueue(context.Background(), deliver)
	s.conns = append(s.conns, c)
	return c
}

// sender is a connection whose hello was let in.
func (s *site) sender(name string, hello nbd.MigrationHello) *conn {
	s.t.Helper()
	c := s.connect(name)
	if err := c.hello(hello); err != nil {
		s.t.Fatalf("%s was refused: %v", name, err)
	}
	return c
}

// refuses checks that a hello is refused, for the right reason.
func (s *site) refuses(hello nbd.MigrationHello, reply nbd.Reply, text string) {
	s.t.Helper()
	c := s.connect("refused")
	defer c.end(false)
	wantRefusal(s.t, c.hello(hello), reply, text)
}

func wantRefusal(t *testing.T, err error, reply nbd.Reply, text string) {
	t.Helper()
	var no *session.Refusal
	if !errors.As(err, &no) || no.Reply != reply || !strings.Contains(no.Text, text) {
		t.Fatalf("got %v, want a refusal with %v and %q", err, reply, text)
	}
}

// prepare has an attempt send the whole disk, and PREPARE.
func (s *site) prepare(hello nbd.MigrationHello) *conn {
	s.t.Helper()
	c := s.sender("source", hello)
	must(s.t, c.fill(hello.ID[0]))
	must(s.t, c.prepare())
	return c
}

// sendCommit sends COMMIT on a connection of its own.
func (s *site) sendCommit(id owner.ID) error {
	s.t.Helper()
	c := s.connect("committer")
	if err := c.hello(committing(id)); err != nil {
		s.t.Fatalf("a connection for COMMIT was refused: %v", err)
	}
	defer c.end(true)
	return c.commit()
}

func id(n byte) owner.ID { return owner.ID{n} }

// sending is the hello of source's attempt n, which may replace another. Zero: none.
func sending(source, n, replaces byte) nbd.MigrationHello {
	return nbd.MigrationHello{
		Version: nbd.MigrationVersion, Purpose: nbd.MigrationSend, Size: diskSize,
		Source: [16]byte{source}, ID: [16]byte{n}, Replaces: [16]byte{replaces},
	}
}

func committing(id owner.ID) nbd.MigrationHello {
	return nbd.MigrationHello{
		Version: nbd.MigrationVersion, Purpose: nbd.MigrationCommit, Size: diskSize,
		Source: [16]byte{1}, ID: id,
	}
}

// conn is a session and its client. It implements session.Link.
type conn struct {
	site   *site
	name   string
	queue  wire.Queue
	answer nbd.MigrationAnswer

	cutOnce sync.Once
	cut     chan struct{}
	ended   chan struct{}
	obeys   sync.WaitGroup

	inHand sync.RWMutex // read-locked by whatever is carried out, locked by the end
	sender session.Sender
	gone   bool
}

func (c *conn) Cut()                   { c.cutOnce.Do(func() { close(c.cut) }) }
func (c *conn) Ended() <-chan struct{} { return c.ended }
func (c *conn) Peer() string           { return c.name }

// wasCut says whether the destination has cut it.
func (c *conn) wasCut() bool {
	select {
	case <-c.cut:
		return true
	default:
		return false
	}
}

// end is the end of the session.
func (c *conn) end(disc bool) {
	c.inHand.Lock()
	defer c.inHand.Unlock()
	if c.gone {
		return
	}
	c.gone = true
	_ = c.queue.Close()
	if c.sender != nil {
		c.sender.Left(disc)
	}
	close(c.ended)
}

var errGone = errors.New("the connection has ended")

// do carries something out, unless the session has ended.
func (c *conn) do(f func(session.Sender) error) error {
	c.inHand.RLock()
	defer c.inHand.RUnlock()
	if c.gone {
		return errGone
	}
	return f(c.sender)
}

func (c *conn) hello(hello nbd.MigrationHello) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return c.helloContext(ctx, hello)
}

func (c *conn) helloContext(ctx context.Context, hello nbd.MigrationHello) error {
	return c.do(func(session.Sender) error {
		s, answer, err := c.site.Hello(ctx, hello, c)
		if err == nil {
			c.sender, c.answer = s, answer
			return answer.Check()
		}
		return err
	})
}

func (c *conn) oldstyle() error {
	return c.do(func(session.Sender) error {
		s, err := c.site.Oldstyle(context.Background(), c)
		if err == nil && s != nil {
			c.sender = s
		}
		return err
	})
}

// write writes one block of the byte b.
func (c *conn) write(n int, b byte) error {
	return c.do(func(s session.Sender) error {
		if err := s.Begin(int64(n)*block, block); err != nil {
			return err
		}
		payload, err := c.queue.Borrow(context.Background(), block)
		if err != nil {
			return err
		}
		defer c.queue.Return(payload)
		copy(payload.Bytes, bytes.Repeat([]byte{b}, block))
		r := &wire.Request{Op: wire.OpWrite, Offset: int64(n) * block, Length: block, Data: payload, Owner: make(chan struct{})}
		c.queue.Submit([]*wire.Request{r})
		<-r.Owner.(chan struct{})
		s.End(r.Err)
		return r.Err
	})
}

func deliver(done []*wire.Request) {
	for _, r := range done {
		close(r.Owner.(chan struct{}))
	}
}

// fill writes the whole disk.
func (c *conn) fill(b byte) error {
	for n := range blocks {
		if err := c.write(n, b); err != nil {
			return err
		}
	}
	return nil
}

func (c *conn) prepare() error {
	return c.do(func(s session.Sender) error { return s.Prepare(context.Background()) })
}
func (c *conn) commit() error {
	return c.do(func(s session.Sender) error { return s.Commit(context.Background()) })
}
func (c *conn) entrust() error {
	return c.do(func(s session.Sender) error { return s.Entrust(context.Background()) })
}

// testDisk is a store that knows what of it would survive a power cut, and calls
// hooks.
type testDisk struct {
	store.Store
	mu      sync.Mutex
	durable []byte
	changes int // writes and flushes that have ended
	onWrite func(p []byte) error
	onFlush func() error
	written func(p []byte)
}

func (d *testDisk) hook(set func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	set()
}

func (d *testDisk) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	d.mu.Lock()
	before, after := d.onWrite, d.written
	d.mu.Unlock()
	if before != nil {
		if err := before(p); err != nil {
			return err
		}
	}
	err := d.Store.WriteAt(ctx, p, off, flags)
	if after != nil {
		after(p)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.changes++
	return err
}

func (d *testDisk) Flush(ctx context.Context) error {
	d.mu.Lock()
	hook := d.onFlush
	d.mu.Unlock()
	if hook != nil {
		if err := hook(); err != nil {
			return err
		}
	}
	now := d.content()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.durable = now
	d.changes++
	return d.Store.Flush(ctx)
}

func (d *testDisk) content() []byte {
	p := make([]byte, diskSize)
	if err := d.ReadAt(context.Background(), p, 0); err != nil {
		panic(err)
	}
	return p
}

// wholly says whether every byte of a disk is b.
func wholly(p []byte, b byte) bool { return bytes.Equal(p, bytes.Repeat([]byte{b}, len(p))) }

// hookFS is an FS whose durable steps a test can watch and fail.
type hookFS struct {
	owner.FS
	mu       sync.Mutex
	onSync   func() error // before each SyncDir
	onRename func(to string) error
}

func (f *hookFS) hook(set func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	set()
}

func (f *hookFS) SyncDir(path string) error {
	f.mu.Lock()
	hook := f.onSync
	f.mu.Unlock()
	if hook != nil {
		if err := hook(); err != nil {
			return err
		}
	}
	return f.FS.SyncDir(path)
}

func (f *hookFS) Rename(from, to string) error {
	f.mu.Lock()
	hook := f.onRename
	f.mu.Unlock()
	if hook != nil {
		if err := hook(to); err != nil {
			return err
		}
	}
	return f.FS.Rename(from, to)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantErrno checks that a request is refused with an errno.
func wantErrno(t *testing.T, what string, err error, want nbd.Errno) {
	t.Helper()
	if err == nil || nbd.ErrnoOf(err, false) != want {
		t.Fatalf("%s: got %v, want an error with %v", what, err, want)
	}
}

// arrived waits for a channel to be closed.
func arrived[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(5 * time.Second):
		t.Fatalf("waited in vain for %s", what)
	}
	panic("unreachable")
}

// pending checks that something does not happen, for as long as a broken program
// would take to do it.
func pending[T any](t *testing.T, c <-chan T, what string) {
	t.Helper()
	select {
	case <-c:
		t.Fatalf("%s, which is too early", what)
	case <-time.After(30 * time.Millisecond):
	}
}

// release is what something waits for that a test holds up, at the latest until the
// test's end.
type release struct {
	once sync.Once
	c    chan struct{}
}

func newRelease(t *testing.T) *release {
	r := &release{c: make(chan struct{})}
	t.Cleanup(r.open)
	return r
}

func (r *release) open() { r.once.Do(func() { close(r.c) }) }

// later runs f, whose error arrives on the channel.
func later(f func() error) <-chan error {
	c := make(chan error, 1)
	go func() { c <- f() }()
	return c
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

var errDisk = fmt.Errorf("the disk is broken: %w", nbd.EIO)
