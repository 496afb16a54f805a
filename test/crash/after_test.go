// SPDX-License-Identifier: GPL-3.0-or-later

package crash

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/core/owner"
)

func rebindSourceAlive(t *testing.T) {
	s := newScenario(t, setup{rebind: rebindOther})
	taken, err := net.Listen("tcp", s.b.home)
	if err != nil {
		t.Fatal(err)
	}
	s.start(nil, nil)
	s.migrate(order{})
	s.a.ends(0) // its COMMIT was acknowledged
	s.b.says("has_control", "true")
	s.b.says("clients_allowed", "false")
	s.nobodyAt(s.b.addr)
	_ = taken.Close()
	s.finish(s.b)
}

// nobodyAt checks that no client is let in at an address.
func (s *scenario) nobodyAt(addr string) {
	s.t.Helper()
	if lets(addr) {
		s.t.Errorf("a client is let in at %s", addr)
	}
}

func rebindDestinationKilled(t *testing.T) {
	for _, home := range []string{rebindOther, rebindToA} {
		t.Run(home, func(t *testing.T) {
			t.Parallel()
			each(t, []string{"destination-before-rebind", "destination-rebound"}, func(t *testing.T, point string) {
				s := newScenario(t, setup{rebind: home})
				s.start(nil, faults{kills(point)})
				s.migrate(order{})
				s.b.dies()
				s.b.restart()
				s.departs()
			})
		})
	}
}

// The proxy keeps what an attempt sends after its first connection's PREPARE has
// begun, and lets it go in the middle of the next attempt, and afterwards.
func lateMessages(t *testing.T) {
	t.Run("PREPARE", func(t *testing.T) {
		t.Parallel()
		s, p := throughProxy(t, setup{maxPause: busy / 3})
		s.startLoad()
		kept := p.arm(cut{connection: -1, after: nbd.CmdPrepare, hold: true})
		s.migrate(s.viaProxy(p))
		s.happens(kept)
		s.attemptFails("held for longer")
		s.b.comesTo("destination-hello", 5) // the next attempt's
		kept.let()
		s.departs()
	})
	t.Run("data", func(t *testing.T) {
		t.Parallel()
		s, p := throughProxy(t, setup{})
		s.startLoad()
		kept := p.arm(cut{connection: 0, n: 100 << 10, hold: true})
		s.migrate(s.viaProxy(p))
		s.happens(kept)
		s.attemptFails("") // after 10 seconds
		s.a.ends(0)
		s.servedBy(s.b)
		kept.let() // to a server that has its own disk
		s.finish(s.b)
	})
	t.Run("COMMIT", func(t *testing.T) {
		t.Parallel()
		s, p := throughProxy(t, setup{})
		s.startLoad()
		kept := p.arm(cut{connection: -1, after: nbd.CmdCommit, hold: true})
		s.migrate(s.viaProxy(p))
		s.happens(kept)
		s.a.ends(0) // after 10 seconds, and another COMMIT
		s.servedBy(s.b)
		kept.let()
		s.more(20)
		s.finish(s.b)
	})
}

func ignoredDeparture(t *testing.T) {
	s := begin(t, faults{kills("source-committed")}, nil)
	s.mayNotice = true
	s.migrate(order{})
	s.a.dies()
	s.committed()
	s.b.kill()
	s.destroy(s.b)
	s.a.start("serve", nil, "--ignore-migrated")
	if r := s.a.records(); r.Migrated != nil || r.Next == nil {
		t.Errorf("the records are %+v, want .MIGRATED.next", r)
	}
	s.finish(s.a)
}

// destroy removes a machine's disk, as a fire would.
func (s *scenario) destroy(m *machine) {
	s.t.Helper()
	all, err := filepath.Glob(m.image + "*")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, path := range all {
		if err := os.Remove(path); err != nil {
			s.t.Fatal(err)
		}
	}
	if state, err := owner.Inspect(owner.Disk, m.place()); err != nil || !state.IsEmpty() {
		s.t.Fatalf("%+v, %v", state, err)
	}
}
