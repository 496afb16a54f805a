// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// doorkeeper is an Admission that notes what it is asked.
type doorkeeper struct {
	mu      sync.Mutex
	refusal string
	clients int
	told    []nbd.MigrationPurpose
}

const noRoom = "there is no room"

func (d *doorkeeper) Client() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clients++
	return d.refusal
}

func (d *doorkeeper) Migration(purpose nbd.MigrationPurpose) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.told = append(d.told, purpose)
}

func (d *doorkeeper) makeRoom() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refusal = ""
}

func (d *doorkeeper) want(t *testing.T, clients int, told ...nbd.MigrationPurpose) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.clients != clients || !slices.Equal(d.told, told) {
		t.Errorf("asked %d times about a client and told of %v, want %d and %v", d.clients, d.told, clients, told)
	}
}

// TestClientWithoutRoomIsRefusedAtGo and at nothing before; it may ask again.
func TestClientWithoutRoomIsRefusedAtGo(t *testing.T) {
	d := &doorkeeper{refusal: noRoom}
	c := connect(t, Config{Export: open(t, newDisk(testSize)), Admission: d})
	c.greet(fixedNoZeroes)
	c.option(nbd.OptList, nil)
	c.reply(nbd.OptList, nbd.RepServer)
	c.reply(nbd.OptList, nbd.RepAck)
	c.option(nbd.OptGo, nbd.AppendInfoRequest(nil, "another export"))
	c.reply(nbd.OptGo, nbd.RepErrUnknown)
	d.want(t, 0)
	c.option(nbd.OptGo, nbd.AppendInfoRequest(nil, ""))
	c.wantRefusal(nbd.OptGo, nbd.RepErrPolicy, noRoom)
	d.want(t, 1)
	d.makeRoom()
	c.enter()
	c.alive()
	c.leave()
	d.want(t, 2)
}

func TestClientWithoutRoomIsHungUpOnWhereNothingCanBeSaid(t *testing.T) {
	for name, style := range map[string]Handshake{"EXPORT_NAME": Newstyle, "oldstyle": Oldstyle} {
		t.Run(name, func(t *testing.T) {
			d := &doorkeeper{refusal: noRoom}
			c := connect(t, Config{Export: open(t, newDisk(testSize)), Admission: d, Handshake: style})
			if style == Newstyle {
				c.greet(fixedNoZeroes)
				c.option(nbd.OptExportName, nil)
			}
			c.wantEnd()
			if err := c.result(); err == nil || !strings.Contains(err.Error(), noRoom) {
				t.Errorf("Serve returned %v", err)
			}
			d.want(t, 1)
		})
	}
}

// TestMigrationNeedsNoRoom checks that it is told of, with its purpose, and never asked
// about; and that a hello which is refused makes no migration of a client.
func TestMigrationNeedsNoRoom(t *testing.T) {
	for _, purpose := range []nbd.MigrationPurpose{nbd.MigrationSend, nbd.MigrationCommit} {
		h, d := newHost(t), &doorkeeper{refusal: noRoom}
		h.setGuest("")
		refuse := errors.New("not now")
		h.onHello = func(context.Context) error { return refuse }
		c := connect(t, Config{Export: open(t, newDisk(testSize)), Migration: h, Admission: d})
		c.greet(fixedNoZeroes)
		hello := testHello()
		if hello.Purpose = purpose; purpose == nbd.MigrationCommit {
			hello.Replaces = [16]byte{}
		}
		c.option(nbd.OptMigrate, nbd.AppendMigrationHello(nil, hello))
		c.wantRefusal(nbd.OptMigrate, nbd.RepErrPolicy, "not now")
		c.option(nbd.OptGo, nbd.AppendInfoRequest(nil, ""))
		c.wantRefusal(nbd.OptGo, nbd.RepErrPolicy, noRoom)
		d.want(t, 1)
		refuse = nil
		c.hello(hello)
		d.want(t, 1, purpose)
		c.enter()
		c.must(nbd.CmdCommit, 0, 0, 0)
		c.leave()
		d.want(t, 1, purpose)
	}
	h, d := newHost(t), &doorkeeper{refusal: noRoom}
	c := connect(t, Config{Export: open(t, newDisk(testSize)), Migration: h, Admission: d, Handshake: Oldstyle})
	c.take(nbd.OldstyleGreetingSize)
	c.must(nbd.CmdWrite, 0, 0, 512, numbered(512))
	c.leave()
	d.want(t, 0, nbd.MigrationSend)
}
