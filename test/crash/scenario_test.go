// SPDX-License-Identifier: GPL-3.0-or-later

package crash

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/test/journal"
)

// scenario is two machines and the clients of the disk that is to move from a to b.
type scenario struct {
	t        *testing.T
	dir      string
	ip       string // its own, with all of its ports
	port     int
	a, b     *machine
	disk     *journal.Disk
	load     *journal.Load
	options  journal.Options
	maxPause time.Duration
	began    time.Time

	// mayNotice: the source dies, which its clients can't but notice.
	mayNotice bool
	// sure is when the source was last seen to have the disk, in nanoseconds.
	sure     atomic.Int64
	guarding chan struct{} // closed by finish
	guarded  chan struct{} // closed by the guard
}

// setup is how a scenario differs from the usual one.
type setup struct {
	size     int64 // of the disk; 0: 4 MiB
	fill     int64 // how much of it is data from the beginning; 0: half
	rebind   string
	maxPause time.Duration // 0: longer than any fault but a stop
}

// Where B serves what has arrived.
const (
	rebindNever = ""
	rebindOther = "another address"
	rebindToA   = "the source's address"
)

var scenarios atomic.Int64

// newScenario makes the images and the machines, and starts nothing. Each scenario
// of each run of the tests has an address of its own, so that ports can be chosen
// beforehand and stay the same over restarts.
func newScenario(t *testing.T, o setup) *scenario {
	t.Helper()
	dir, err := os.MkdirTemp("", "flexnbd-") // t.TempDir's are too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	if o.size == 0 {
		o.size = 4 << 20
	}
	if o.fill == 0 {
		o.fill = o.size / 2
	}
	if o.maxPause == 0 {
		o.maxPause = 8 * time.Second
	}
	n, pid := int(scenarios.Add(1)), os.Getpid()
	s := &scenario{
		t: t, dir: dir, maxPause: o.maxPause,
		ip:   fmt.Sprintf("127.%d.%d.%d", 1+pid%250, 1+pid/250%250, 1+n%250),
		port: 10800 + n/250*20,
		disk: journal.NewDisk(o.size),
	}
	s.a = newMachine(t, "A", filepath.Join(dir, "a"), s.address(0))
	s.b = newMachine(t, "B", filepath.Join(dir, "b"), s.address(1))
	switch o.rebind {
	case rebindOther:
		s.b.home = s.address(2)
	case rebindToA:
		s.b.home = s.a.addr
	}
	s.makeImages(o)
	s.options = journal.Options{
		Servers: []journal.Server{journal.TCP(s.a.addr)}, Seed: uint64(n),
		Smallest: 4 << 10, Largest: 16 << 10, BytesPerSecond: 1 << 20, Patience: patience,
	}
	if s.b.address() != s.a.addr {
		s.options.Servers = append(s.options.Servers, journal.TCP(s.b.address()))
	}
	return s
}

// address is one of the scenario's own.
func (s *scenario) address(n int) string {
	return net.JoinHostPort(s.ip, strconv.Itoa(s.port+n))
}

func (s *scenario) makeImages(o setup) {
	s.t.Helper()
	for _, m := range []*machine{s.a, s.b} {
		makeImage(s.t, m.image, o.size)
	}
	f, err := os.OpenFile(s.a.image, os.O_WRONLY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := errors.Join(s.disk.Fill(f, 0, o.fill), f.Close()); err != nil {
		s.t.Fatal(err)
	}
}

// makeImage makes an image that is all hole.
func makeImage(t *testing.T, path string, size int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// start starts both machines and the clients.
func (s *scenario) start(atA, atB faults) {
	s.t.Helper()
	s.a.serve(atA...)
	s.b.listen(atB...)
	s.startLoad()
}

// begin is newScenario and start for the usual setup.
func begin(t *testing.T, atA, atB faults) *scenario {
	t.Helper()
	s := newScenario(t, setup{})
	s.start(atA, atB)
	return s
}

func (s *scenario) startLoad() {
	s.t.Helper()
	load, err := journal.NewLoad(s.disk, s.options)
	if err != nil {
		s.t.Fatal(err)
	}
	s.load, s.began = load, time.Now()
	s.guarding, s.guarded = make(chan struct{}), make(chan struct{})
	load.Start()
	s.t.Cleanup(func() { _ = load.Stop(within(s.t, time.Millisecond)) })
	go s.guard()
	s.more(20)
}

// guard notes, again and again, that the source has not given the disk away.
func (s *scenario) guard() {
	defer close(s.guarded)
	for {
		now := time.Now()
		if _, err := os.Lstat(s.a.place().Migrated()); errors.Is(err, fs.ErrNotExist) {
			s.sure.Store(now.UnixNano())
		} else {
			return
		}
		select {
		case <-s.guarding:
			return
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// more waits until n more requests have been answered.
func (s *scenario) more(n uint64) {
	s.t.Helper()
	if err := s.load.AwaitMore(within(s.t, patience), n); err != nil {
		s.t.Fatalf("%v\nA said:\n%s\nB said:\n%s", err, s.a.log.String(), s.b.log.String())
	}
}

// order is what mirror is told.
type order struct {
	to       string // HOST:PORT; "": B
	then     string // "": exit
	bind     string
	speed    int64
	maxPause time.Duration // 0: the scenario's
	more     []string
}

// mirror gives the order and returns the answer.
func (s *scenario) mirror(o order) (text string, code int, err error) { return s.mirrorFrom(s.a, o) }

func (s *scenario) mirrorFrom(m *machine, o order) (text string, code int, err error) {
	if o.to == "" {
		o.to = s.b.addr
	}
	if o.then == "" {
		o.then = "exit"
	}
	if o.bind == "" {
		o.bind = "-"
	}
	if o.maxPause == 0 {
		o.maxPause = s.maxPause
	}
	host, port, err := net.SplitHostPort(o.to)
	if err != nil {
		return "", 0, err
	}
	words := []string{host, port, o.then, o.bind, strconv.FormatInt(o.speed, 10), strconv.FormatInt(o.maxPause.Milliseconds(), 10)}
	answer, err := m.ask("mirror", append(words, o.more...)...)
	return answer.Text, int(answer.Code), err
}

// migrate starts a migration, which has to start.
func (s *scenario) migrate(o order) {
	s.t.Helper()
	if text, code, err := s.mirror(o); err != nil || code != 0 || text != "Migration started" {
		s.t.Fatalf("mirror says %q (%d, %v)\nB said:\n%s", text, code, err, s.b.log.String())
	}
}

// try starts a migration during which the source may die at once.
func (s *scenario) try() { _, _, _ = s.mirror(order{}) }

// refused is a migration that must not start, for a reason that begins so.
func (s *scenario) refused(words string, o order) {
	s.t.Helper()
	text, code, err := s.mirror(o)
	if err != nil || code != 1 || !strings.HasPrefix(text, words) {
		s.t.Errorf("mirror says %q (%d, %v), want %q", text, code, err, words)
	}
}

// unlimited takes the speed limit away.
func (s *scenario) unlimited() {
	s.t.Helper()
	if answer, err := s.a.ask("mirror_max_bps", "0"); err != nil || answer.Code != 0 {
		s.t.Fatalf("mirror-speed: %+v, %v", answer, err)
	}
}

// slow is a speed at which a copy takes a few seconds.
const slow = 512 << 10

// copies waits until the migration is in the middle of the copy.
func (s *scenario) copies() {
	s.t.Helper()
	if !soon(func() bool {
		status, _ := s.a.status()
		sent, _ := strconv.Atoi(status["migration_bytes_sent"])
		return sent >= 256<<10
	}) {
		s.t.Fatalf("the migration does not copy\n%s", s.a.log.String())
	}
}

// happens waits until a cut has happened as often as it is to.
func (s *scenario) happens(c *cut) {
	s.t.Helper()
	select {
	case <-c.done:
	case <-time.After(patience):
		s.t.Fatalf("the cut %+v does not happen", *c)
	}
}

// attemptFails waits until an attempt has ended for a reason with these words, and
// checks that clients have not noticed.
func (s *scenario) attemptFails(words string) {
	s.t.Helper()
	s.a.says("migration_error", words)
	if status, _ := s.a.status(); status["has_control"] != "true" && status["migration_state"] != "committing" {
		s.t.Errorf("after an attempt that has failed the status is %v", status)
	}
	s.unnoticed()
}

// unnoticed checks that clients are served, have lost no connection, and have waited
// no longer than they may.
func (s *scenario) unnoticed() {
	s.t.Helper()
	until := time.Now()
	s.more(10)
	if err := s.disturbed(); err != nil {
		s.t.Error(err)
	}
	if err := s.held(until); err != nil {
		s.t.Error(err)
	}
}

// busy is how much longer than necessary anything may take on a busy machine.
const busy = 3 * time.Second

// held says whether clients have waited for too long.
func (s *scenario) held(until time.Time) error {
	if longest := s.load.Pauses(s.began, until).Longest(); longest > s.maxPause+busy {
		return fmt.Errorf("a client has waited for %v, and the limit is %v", longest, s.maxPause)
	}
	return nil
}

// servedBy waits until a machine serves the disk to the clients.
func (s *scenario) servedBy(m *machine) {
	s.t.Helper()
	m.says("clients_allowed", "true")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	at := m.address()
	if m == s.a {
		at = s.a.addr
	}
	if err := s.load.AwaitAnsweredBy(ctx, at, s.load.AnsweredBy(at)+20); err != nil {
		s.t.Fatalf("%v\nA said:\n%s\nB said:\n%s", err, s.a.log.String(), s.b.log.String())
	}
}

// nobody checks that no server lets a client in.
func (s *scenario) nobody() {
	s.t.Helper()
	for _, addr := range []string{s.a.addr, s.b.addr, s.b.address()} {
		if lets(addr) {
			s.t.Errorf("a client is let in at %s", addr)
		}
	}
}

// plain checks that the destination's copy is known to be no copy.
func (s *scenario) plain() {
	s.t.Helper()
	if i := s.b.records().Incomplete; i == nil || !i.Prepared.IsZero() {
		s.t.Errorf("the destination's record is %+v, want a plain .INCOMPLETE", i)
	}
}

// prepared checks that the destination is prepared.
func (s *scenario) prepared() {
	s.t.Helper()
	if i := s.b.records().Incomplete; i == nil || i.Prepared.IsZero() {
		s.t.Errorf("the destination's record is %+v, want a prepared .INCOMPLETE", i)
	}
}

// goesOn is what an operator does after the source has died before it had given the
// disk away: serves it again. Nothing is lost, and a new migration goes through.
func (s *scenario) goesOn() {
	s.t.Helper()
	s.a.serve()
	s.servedBy(s.a)
	s.migrate(order{})
	s.departs()
}

// departs waits for the end of a source that has given its disk away.
func (s *scenario) departs() {
	s.t.Helper()
	s.a.ends(0)
	s.finish(s.b)
}

// finish waits until a machine serves the disk, ends everything and judges.
func (s *scenario) finish(owner *machine) {
	s.t.Helper()
	s.servedBy(owner)
	s.stopLoad()
	if err := s.judge(owner); err != nil {
		s.t.Error(err)
	}
	if err := s.end(); err != nil {
		s.t.Error(err)
	}
}

// stopLoad ends the clients, none of which may have been refused anything.
func (s *scenario) stopLoad() {
	s.t.Helper()
	if err := s.load.Stop(within(s.t, patience)); err != nil {
		s.t.Errorf("%v\nA said:\n%s\nB said:\n%s", err, s.a.log.String(), s.b.log.String())
	}
	close(s.guarding)
	<-s.guarded
}
