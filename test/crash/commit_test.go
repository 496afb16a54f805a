// SPDX-License-Identifier: GPL-3.0-or-later

package crash

import (
	"testing"

	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/core/owner"
)

func renameFails(t *testing.T) {
	s := begin(t, faults{fails("source-before-rename", "EIO")}, nil)
	s.migrate(order{})
	s.attemptFails("input/output error")
	if s.a.records().Next == nil && s.a.records().Migrated == nil {
		t.Error(".MIGRATED.next is gone")
	}
	s.departs()
}

// committed checks that the disk is given away and that nobody has it yet.
func (s *scenario) committed() {
	s.t.Helper()
	s.nobody()
	if v := s.a.records().Verdict(); v != owner.VerdictDeparting {
		s.t.Errorf("by its records the source is %v, want departing", v)
	}
	s.prepared()
}

func renameSyncFails(t *testing.T) {
	s := begin(t, faults{fails("source-renamed", "EIO")}, nil)
	s.migrate(order{})
	s.a.ends(1)
	s.committed()
	if n := s.b.cameTo("destination-commit"); n != 0 {
		t.Errorf("COMMIT was sent %d times", n)
	}
	s.a.exits(0, "serve")
	s.finish(s.b)
}

// The restarted source serves nothing, asks until it is answered, and ends well.
func sourceKilledAfterTheRename(t *testing.T, point string) {
	s := begin(t, faults{kills(point)}, nil)
	s.migrate(order{})
	s.a.dies()
	s.committed()
	s.a.exits(0, "serve")
	s.finish(s.b)
}

func renamedSourceKilled(t *testing.T) { sourceKilledAfterTheRename(t, "source-renamed") }

func committedSourceKilled(t *testing.T) {
	each(t, []string{"source-committed", "source-before-commit"}, sourceKilledAfterTheRename)
}

// throughProxy is a scenario in which the source reaches the destination through a
// proxy only: it connects from an address that the destination does not let in.
func throughProxy(t *testing.T, o setup, atA ...fault) (*scenario, *proxy) {
	t.Helper()
	s := newScenario(t, o)
	s.b.allow = []string{"127.0.0.1"}
	s.a.serve(atA...)
	s.b.listen()
	return s, newProxy(t, s.address(5), s.b.addr)
}

// viaProxy is the order for that.
func (s *scenario) viaProxy(p *proxy) order { return order{to: p.addr, bind: s.ip} }

func commitLost(t *testing.T) {
	s, p := throughProxy(t, setup{})
	s.startLoad()
	lost := p.arm(cut{connection: -1, after: nbd.CmdCommit, times: 5})
	s.migrate(s.viaProxy(p))
	s.happens(lost)
	s.departs()
	if n := s.b.cameTo("destination-commit"); n != 1 {
		t.Errorf("COMMIT has arrived %d times, want 1", n)
	}
}

func commitSentSourceKilled(t *testing.T) {
	each(t, []string{"source-commit-sent", "source-commit-answered"}, func(t *testing.T, point string) {
		s := begin(t, faults{kills(point)}, nil)
		s.migrate(order{})
		s.a.dies()
		if s.a.records().Verdict() != owner.VerdictDeparting {
			t.Error("the source has noted an acknowledgement that it has not had")
		}
		s.a.exits(0, "serve")
		s.finish(s.b)
	})
}

func commitDestinationKilled(t *testing.T) {
	s := begin(t, nil, faults{kills("destination-commit")})
	s.migrate(order{})
	s.b.dies()
	s.committed()
	s.b.restart()
	s.departs()
}

func commitDestinationStopped(t *testing.T) {
	s := begin(t, nil, faults{stops("destination-commit")})
	s.migrate(order{})
	s.b.isStopped()
	s.committed()
	s.b.resume()
	s.departs()
}

func takenOverDestinationKilled(t *testing.T) {
	each(t, []string{"destination-renamed", "destination-owned"}, func(t *testing.T, point string) {
		s := begin(t, nil, faults{kills(point)})
		s.migrate(order{})
		s.b.dies()
		s.nobody()
		s.b.restart()
		s.departs()
	})
}

func takenOverSyncFails(t *testing.T) {
	s := begin(t, nil, faults{fails("destination-renamed", "EIO")})
	s.migrate(order{})
	s.b.ends(1)
	s.nobody()
	if s.a.records().Verdict() != owner.VerdictDeparting {
		t.Error("the take-over was acknowledged")
	}
	s.b.restart()
	s.departs()
}

func acknowledgementLost(t *testing.T) {
	t.Run("with the connection", func(t *testing.T) {
		t.Parallel()
		s, p := throughProxy(t, setup{})
		s.startLoad()
		lost := p.arm(cut{connection: -1, after: nbd.CmdCommit, down: true, times: 3})
		s.migrate(s.viaProxy(p))
		s.happens(lost)
		s.departs()
	})
	t.Run("with the destination", func(t *testing.T) {
		t.Parallel()
		s := begin(t, nil, faults{kills("destination-acknowledged")})
		s.migrate(order{})
		s.b.dies()
		s.b.restart()
		s.departs()
	})
}

func acknowledgedSourceKilled(t *testing.T) {
	s := begin(t, faults{kills("source-acknowledged")}, nil)
	s.migrate(order{})
	s.a.dies()
	s.a.exits(3, "serve")
	s.finish(s.b)
}

// The fourth record that the source writes is the acknowledgement.
func acknowledgeRecordFails(t *testing.T) {
	s := begin(t, faults{failsLater("owner-written", "ENOSPC", 3)}, nil)
	s.migrate(order{})
	s.a.ends(0)
	if s.a.records().Verdict() != owner.VerdictDeparting {
		t.Error("the acknowledgement was noted")
	}
	s.a.exits(0, "serve") // asks again
	s.a.exits(3, "serve")
	s.finish(s.b)
}

func unlinkSourceKilled(t *testing.T) {
	each(t, []string{"source-before-unlink", "source-unlinked"}, func(t *testing.T, point string) {
		s := begin(t, faults{kills(point)}, nil)
		s.migrate(order{then: "unlink"})
		s.a.dies()
		if want := point == "source-before-unlink"; s.a.hasImage() != want {
			t.Errorf("the image is there: %v, want %v", !want, want)
		}
		s.a.exits(3, "serve")
		s.finish(s.b)
	})
}
