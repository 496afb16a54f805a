// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// host is a Migration whose answers a test decides, and which notes what its senders
// are told.
type host struct {
	t testing.TB

	// Set before the first connection. Nil means that there is no error.
	onHello  func(context.Context) error
	begin    func(off, length int64) error
	prepare  func(context.Context) error
	commit   func(context.Context) error
	entrust  func(context.Context) error
	greeted  func() (client bool, err error) // of an oldstyle connection
	answered nbd.MigrationAnswer

	links chan Link // of each hello

	mu      sync.Mutex
	refusal string // Guest's
	hellos  []nbd.MigrationHello
	events  []string // in the order in which they happened
	begun   int
	ended   []error
	flushed []error
	left    []bool
}

// visit is one Sender.
type visit struct {
	*host
	link Link
}

func newHost(t testing.TB) *host {
	return &host{t: t, links: make(chan Link, 100), refusal: waitsForDisk, answered: nbd.MigrationAnswer{
		Version: nbd.MigrationVersion, Flags: nbd.MigrationZeroes, Size: testSize, Address: "198.51.100.7", Port: 4777,
	}}
}

const waitsForDisk = "this server waits for a disk"

var (
	_ Migration = (*host)(nil)
	_ Sender    = visit{}
)

func (h *host) note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, fmt.Sprintf(format, args...))
}

func (h *host) setGuest(refusal string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refusal = refusal
}

func (h *host) Guest() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.refusal
}

func (h *host) Hello(ctx context.Context, hello nbd.MigrationHello, link Link) (Sender, nbd.MigrationAnswer, error) {
	h.mu.Lock()
	h.hellos = append(h.hellos, hello)
	h.mu.Unlock()
	h.links <- link
	if err := invoke(ctx, h.onHello); err != nil {
		return nil, nbd.MigrationAnswer{}, err
	}
	return visit{h, link}, h.answered, nil
}

func (h *host) Oldstyle(_ context.Context, link Link) (Sender, error) {
	h.links <- link
	if h.greeted != nil {
		if client, err := h.greeted(); client || err != nil {
			return nil, err
		}
	}
	return visit{h, link}, nil
}

func (h *host) Begin(off, length int64) error {
	if h.begin != nil {
		if err := h.begin(off, length); err != nil {
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.begun++
	h.events = append(h.events, fmt.Sprintf("begin %d+%d", off, length))
	return nil
}

func (h *host) End(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended = append(h.ended, err); len(h.ended) > h.begun {
		h.t.Error("more requests ended than began")
	}
	h.events = append(h.events, "end")
}

func (h *host) Flushed(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.flushed = append(h.flushed, err)
}

func (h *host) Prepare(ctx context.Context) error { return invoke(ctx, h.prepare) }
func (h *host) Commit(ctx context.Context) error  { return invoke(ctx, h.commit) }
func (h *host) Entrust(ctx context.Context) error { return invoke(ctx, h.entrust) }

func (v visit) Left(disc bool) {
	h := v.host
	h.mu.Lock()
	defer h.mu.Unlock()
	h.left = append(h.left, disc)
	if h.begun != len(h.ended) {
		h.t.Errorf("the connection was left with %d requests under way", h.begun-len(h.ended))
	}
	if isClosed(v.link.Ended()) {
		h.t.Error("Ended was closed before Left was called")
	}
}

// told returns how many requests began, how they ended, and how often and how the
// connection was left.
func (h *host) told() (begun int, ended []error, left []bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.begun, slices.Clone(h.ended), slices.Clone(h.left)
}

// noted returns what happened, what the flushes ended with, and what was said to
// Hello.
func (h *host) noted() (events []string, flushed []error, hellos []nbd.MigrationHello) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.events), slices.Clone(h.flushed), slices.Clone(h.hellos)
}

// wantLeft waits for the end of a sender's connection.
func (h *host) wantLeft(link Link, disc bool) {
	h.t.Helper()
	receive(h.t, link.Ended())
	if _, _, left := h.told(); len(left) != 1 || left[0] != disc {
		h.t.Errorf("Left was called with %v, want once with %v", left, disc)
	}
}

func invoke(ctx context.Context, f func(context.Context) error) error {
	if f == nil {
		return nil
	}
	return f(ctx)
}

// testHello is what a sender says.
func testHello() nbd.MigrationHello {
	return nbd.MigrationHello{
		Version: nbd.MigrationVersion, Purpose: nbd.MigrationSend, Size: testSize,
		Source: [16]byte{1}, ID: [16]byte{2}, Replaces: [16]byte{3},
	}
}

// hello plays the option, which has to be accepted, and returns the answer.
func (c *client) hello(hello nbd.MigrationHello) nbd.MigrationAnswer {
	c.t.Helper()
	c.option(nbd.OptMigrate, nbd.AppendMigrationHello(nil, hello))
	answer, err := nbd.ParseMigrationAnswer(c.reply(nbd.OptMigrate, nbd.RepMigrate))
	if err != nil {
		c.t.Fatal(err)
	}
	if ack := c.reply(nbd.OptMigrate, nbd.RepAck); len(ack) > 0 {
		c.t.Fatalf("the acknowledgement has the data %x", ack)
	}
	return answer
}

// sender starts a session and brings it into the transmission phase as a sender.
func sender(t testing.TB, h *host, config Config, structured bool) (*client, Link) {
	t.Helper()
	config.Migration = h
	c := connect(t, config)
	c.greet(fixedNoZeroes)
	if structured {
		c.structure()
	}
	c.hello(testHello())
	c.enter()
	return c, receive(t, h.links)
}
