// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/core/session"
)

// welcoming is a Migration that lets everybody in, clients and migrations.
type welcoming struct{ commits chan struct{} }

func (welcoming) Guest() string { return "" }

func (w welcoming) Hello(context.Context, nbd.MigrationHello, session.Link) (session.Sender, nbd.MigrationAnswer, error) {
	return w, nbd.MigrationAnswer{Version: nbd.MigrationVersion, Size: 64 << 20}, nil
}

func (welcoming) Oldstyle(context.Context, session.Link) (session.Sender, error) { return nil, nil }

func (welcoming) Begin(int64, int64) error      { return nil }
func (welcoming) End(error)                     {}
func (welcoming) Flushed(error)                 {}
func (welcoming) Prepare(context.Context) error { return nil }
func (welcoming) Entrust(context.Context) error { return nil }
func (welcoming) Left(bool)                     {}

func (w welcoming) Commit(context.Context) error {
	w.commits <- struct{}{}
	return nil
}

// crowd starts a server that takes part in migrations, with so many places.
func crowd(t *testing.T, places int) (*rig, welcoming) {
	w := welcoming{make(chan struct{}, 100)}
	return start(t, func(c *Config, _ *export.Options, _ *disk) { c.Migration, c.MaxClients = w, places }), w
}

func (c *client) greet() *client {
	c.t.Helper()
	c.take(nbd.GreetingSize)
	c.say(nbd.AppendClientFlags(nil, nbd.FlagClientFixedNewstyle|nbd.FlagClientNoZeroes))
	return c
}

// ask plays an option and returns the last reply to it.
func (c *client) ask(opt nbd.Option, data []byte) (nbd.Reply, string) {
	c.t.Helper()
	c.say(nbd.AppendOption(nil, opt, data))
	for {
		h, text, err := nbd.ReadOptionReply(c)
		if err != nil {
			c.t.Fatal(err)
		}
		if h.Reply != nbd.RepInfo && h.Reply != nbd.RepMigrate {
			return h.Reply, string(text)
		}
	}
}

func (c *client) wantAck(opt nbd.Option, data []byte) *client {
	c.t.Helper()
	if reply, text := c.ask(opt, data); reply != nbd.RepAck {
		c.t.Fatalf("%v: got %v %q", opt, reply, text)
	}
	return c
}

// migrates plays the handshake of a migration.
func (c *client) migrates(purpose nbd.MigrationPurpose) *client {
	c.t.Helper()
	return c.greet().wantAck(nbd.OptMigrate, nbd.AppendMigrationHello(nil, nbd.MigrationHello{
		Version: nbd.MigrationVersion, Purpose: purpose, Source: [16]byte{1}, ID: [16]byte{2}, Size: 64 << 20,
	})).wantAck(nbd.OptGo, nbd.AppendInfoRequest(nil, ""))
}

func (c *client) commit() {
	c.t.Helper()
	c.send(nbd.CmdCommit, 0)
	c.wantErrno(0)
}

// TestMigrationIsLetInHoweverManyClientsThereAre: those who are served, those who say
// nothing, and those who say nothing and came after the last place was taken.
func TestMigrationIsLetInHoweverManyClientsThereAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := crowd(t, 2)
		began := time.Now()
		r.connect("10.0.0.1:1").enter()
		r.connect("10.0.0.1:2")
		for range 3 * maxSpares {
			r.connect("10.0.0.1:3")
		}
		r.connect("10.0.0.2:1").migrates(nbd.MigrationCommit).commit()
		r.connect("10.0.0.2:2").migrates(nbd.MigrationSend).writeOneByte()
		<-w.commits
		if took := time.Since(began); took != 0 {
			t.Errorf("they were let in after %v", took)
		}
		synctest.Wait()
		if got := r.Clients(); got != 2 {
			t.Errorf("%d clients", got)
		}
		if got, want := r.clients.connections(), 2+maxSpares; got != want {
			t.Errorf("%d connections, want %d", got, want)
		}
	})
}

// TestClientBeyondTheLimitIsRefusedWhenItAsks, and let in by the same connection once
// there is a place. One that says nothing is soon hung up on.
func TestClientBeyondTheLimitIsRefusedWhenItAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := crowd(t, 1)
		first := r.connect("10.0.0.1:1").enter()
		next := r.connect("10.0.0.1:2").greet()
		if reply, text := next.ask(nbd.OptGo, nbd.AppendInfoRequest(nil, "")); reply != nbd.RepErrPolicy || !strings.Contains(text, "--max-clients") {
			t.Errorf("got %v %q", reply, text)
		}
		_ = first.Close()
		synctest.Wait()
		next.wantAck(nbd.OptGo, nbd.AppendInfoRequest(nil, ""))
		next.writeOneByte()
		if got := r.Clients(); got != 1 {
			t.Errorf("%d clients", got)
		}
		silent := r.connect("10.0.0.1:3")
		silent.take(nbd.GreetingSize)
		began := time.Now()
		silent.wantEnd()
		if took := time.Since(began); took != spareTime {
			t.Errorf("it was hung up on after %v", took)
		}
		hasty := r.connect("10.0.0.1:4").greet()
		hasty.say(nbd.AppendOption(nil, nbd.OptExportName, nil))
		hasty.wantEnd()
		next.writeOneByte()
	})
}

// TestMigrationTakesNoClientsPlace, also if it came when there were places.
func TestMigrationTakesNoClientsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := crowd(t, 1)
		sender := r.connect("10.0.0.2:1").migrates(nbd.MigrationSend)
		committer := r.connect("10.0.0.2:2").migrates(nbd.MigrationCommit)
		if got := r.Clients(); got != 0 {
			t.Errorf("%d clients", got)
		}
		c := r.connect("10.0.0.1:1").enter()
		sender.writeOneByte()
		committer.commit()
		<-w.commits
		c.writeOneByte()
		if got := r.Clients(); got != 1 {
			t.Errorf("%d clients", got)
		}
		for _, c := range []*client{sender, committer, c} {
			_ = c.Close()
		}
		synctest.Wait()
		if got := r.clients.placed; got != [places]int{} || r.clients.connections() != 0 {
			t.Errorf("places that were not given back: %v", got)
		}
	})
}

// TestConnectionsOfMigrationsAreBounded too: whoever opens many for COMMIT loses the
// oldest, and whoever sends over many loses the last.
func TestConnectionsOfMigrationsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := crowd(t, 1000)
		var committers, senders []*client
		for range maxSpares + 1 {
			committers = append(committers, r.connect("10.0.0.2:1").migrates(nbd.MigrationCommit))
		}
		committers[0].wantEnd()
		committers[1].commit()
		committers[maxSpares].commit()
		for range maxSenders {
			senders = append(senders, r.connect("10.0.0.2:2").migrates(nbd.MigrationSend))
		}
		late := r.connect("10.0.0.2:3").greet()
		late.once(nbd.AppendOption(nil, nbd.OptMigrate, nbd.AppendMigrationHello(nil, nbd.MigrationHello{
			Version: nbd.MigrationVersion, Purpose: nbd.MigrationSend, Source: [16]byte{1}, ID: [16]byte{2}, Size: 64 << 20,
		})))
		synctest.Wait()
		if got, want := r.clients.connections(), maxSpares+maxSenders; got != want {
			t.Errorf("%d connections, want %d", got, want)
		}
		senders[0].writeOneByte()
	})
}

// TestStrangerPushesNobodyOut: whom the access list does not allow takes no spare place.
func TestStrangerPushesNobodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := crowd(t, 1)
		if err := r.ReplaceACL([]string{"10.0.0.0/8"}); err != nil {
			t.Fatal(err)
		}
		r.connect("10.0.0.1:1").enter()
		c := r.connect("10.0.0.2:1").greet()
		for range maxSpares - 1 {
			r.connect("10.0.0.2:2")
		}
		for range 3 * maxSpares {
			r.connect("192.168.0.1:1").wantEnd()
		}
		if reply, text := c.ask(nbd.OptGo, nbd.AppendInfoRequest(nil, "")); reply != nbd.RepErrPolicy {
			t.Errorf("got %v %q", reply, text)
		}
	})
}
