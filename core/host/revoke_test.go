// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

const takenBack = "the backend takes its descriptor back"

// revoke has the plugin take its descriptor back, and waits until the host knows.
func (d *tortured) revoke() {
	d.t.Helper()
	d.order(d.t, "revoke", "extents")
	if _, err := d.Extents(d.t.Context(), 0, 1); err != nil {
		d.t.Fatal(err)
	}
	await(d.t, "the lane is rpc", func() bool { return d.Lane() == wire.LaneRPC })
}

// awaitRevoked waits until n calls of Revoke have returned in the plugin.
func (d *tortured) awaitRevoked(n int) {
	d.t.Helper()
	await(d.t, "Revoke returns", func() bool { return strings.Count(d.peek(), "revoked") == n })
}

func TestRevokedLoanIsGivenBackWhenTheLastRequestHasLeft(t *testing.T) {
	d := lending(t)
	c := connect(t, d)
	first, second := c.occupy(), c.occupy()
	d.order(t, "hold", "punch")
	punch := c.startPunch(0, 10)
	d.awaitHeld(t, "punch")
	write := c.startWrite(0, "waits for the punch, not inside", 0)
	d.journal(t)
	d.revoke()
	d.revoke() // a second time
	await(t, "both Revokes", func() bool { return strings.Count(d.peek(), "revoking") == 2 })
	for _, lent := range []*wire.Lent{first, second} {
		c.write(6000, "rpc")
		if got := c.read(6000, 3); got != "rpc" {
			t.Errorf("read %q", got)
		}
		if got := d.peek(); strings.Contains(got, "revoked") || isOver(lent) {
			t.Errorf("the plugin got its descriptor back while it was in use: it did %q", got)
		}
		lent.Leave()
	}
	d.awaitRevoked(2)
	if got, want := strings.Count(d.journal(t), "write read"), 2; got != want {
		t.Errorf("%d requests reached the plugin, want %d", got, want)
	}
	d.onRPC(c, "text")
	if d.logged(takenBack) != 1 {
		t.Errorf("log:\n%s", d.log)
	}
	d.crash() // which ends the punch
	for _, r := range []*request{punch, write} {
		if err := c.wait(r); err != nil {
			t.Errorf("%v: %v", r.Op, err)
		}
	}
	if got := c.read(0, 5); got != "waits" {
		t.Errorf("the disk has %q", got)
	}
	d.onFile(c, "the new process lends again")
}

// What is written by the lane after Revoke has returned would be seen in the image:
// what is left to the plugin stays there.
func TestNothingIsWrittenOnceRevokeHasReturned(t *testing.T) {
	d := lending(t)
	c := connect(t, d)
	const writers, block = 8, 4096 // half of the disk; the other half is read
	d.order(t, "hang", "write")
	d.journal(t)
	stop := make(chan struct{})
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := 0; ; i++ {
				off := int64(w*block + i%2*100) // now at the start of a page, now in it
				if err := c.wait(c.startWrite(off, fmt.Sprintf("%08d", i), 0)); err != nil {
					t.Errorf("write: %v", err)
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	all.Go(func() { // pages that are not there make requests slow
		for {
			select {
			case <-stop:
				return
			default:
				d.evict()
				r := c.startRead(torturedSize/2, torturedSize/2, true)
				if err := c.wait(r); err != nil {
					t.Errorf("read: %v", err)
				}
				if r.Lent != nil {
					r.Lent.Leave()
				}
			}
		}
	})
	d.revoke()
	d.awaitRevoked(1)
	was, err := os.ReadFile(d.image)
	if err != nil {
		t.Fatal(err)
	}
	await(t, "every writer is left to the plugin", func() bool { return strings.Count(d.peek(), "write") == writers })
	is, err := os.ReadFile(d.image)
	if err != nil {
		t.Fatal(err)
	}
	if string(was) != string(is) {
		t.Error("the image was changed after Revoke had returned")
	}
	close(stop)
	d.countermand(t, "hang", "write")
	d.crash()
	all.Wait()
}

func TestPluginThatRevokesAndDiesIsReplacedOnceItsLoanIsOver(t *testing.T) {
	d := lending(t)
	c := connect(t, d)
	lent := c.occupy()
	d.revoke()
	d.OnRestart(func() {
		if !isOver(lent) {
			t.Error("the next process serves while somebody uses the loan of the old one")
		}
		d.note("hook")
	})
	d.journal(t)
	d.signal(unix.SIGKILL)
	d.awaitState("restarting")
	read := c.startRead(0, 1, false)
	await(t, "the next process has opened the disk", func() bool { return d.peek() == "lease open" })
	lent.Leave()
	if err := c.wait(read); err != nil {
		t.Error(err)
	}
	d.onFile(c, "the new process lends again")
	if d.logged("can't be told") != 0 {
		t.Errorf("log:\n%s", d.log)
	}
}

func TestDiskMayBeClosedWhileItsLoanIsBeingTakenBack(t *testing.T) {
	d := lending(t)
	lent := connect(t, d).occupy()
	d.revoke()
	d.journal(t)
	d.closesBehind(lent)
	if got := d.journal(t); got != "revoked" {
		t.Errorf("the plugin did %q", got)
	}
	if d.logged("can't be told") != 0 || d.logged("does not end by itself") != 0 {
		t.Errorf("log:\n%s", d.log)
	}
}
