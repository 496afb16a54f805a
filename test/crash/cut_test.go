// SPDX-License-Identifier: GPL-3.0-or-later

package crash

import (
	"testing"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// tiny is a disk that is copied at once, so that a cut costs no more than the wait
// before the next attempt.
var tiny = setup{size: 256 << 10}

// position is a place to cut at.
type position struct {
	down bool
	n    int
}

// positions are those after 0 bytes, after each further one, and so on, in both
// directions.
func positions(up, down, step int) []position {
	var all []position
	for n := 0; n <= up; n += step {
		all = append(all, position{false, n})
	}
	for n := 0; n <= down; n += step {
		all = append(all, position{true, n})
	}
	return all
}

// shares deals positions out to some scenarios, which run side by side.
func shares(t *testing.T, all []position, scenarios int, run func(t *testing.T, mine []position)) {
	t.Helper()
	for i := range scenarios {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			var mine []position
			for j := i; j < len(all); j += scenarios {
				mine = append(mine, all[j])
			}
			run(t, mine)
		})
	}
}

// handshakes are the positions within a handshake with the option, which is measured.
func (s *scenario) handshakes(p *proxy, step int) []position {
	s.t.Helper()
	rehearsal := s.viaProxy(p)
	rehearsal.then = "nothing"
	s.migrate(rehearsal)
	if answer, err := s.a.ask("mirror_wait"); err != nil || answer.Code != 0 {
		s.t.Fatalf("the rehearsal: %+v, %v", answer, err)
	}
	up, down := p.greeted()
	if up < nbd.MigrationHelloSize || down < nbd.MigrationAnswerSize {
		s.t.Fatalf("a handshake of %d and %d bytes", up, down)
	}
	return positions(up-1, down-1, step)
}

// A cut before "Migration started" is a reason, and nothing begins. One in the
// handshake of a later connection costs the attempt that connection or, once the
// destination knows of it, the whole attempt.
func cutHandshake(t *testing.T) {
	t.Run("first", func(t *testing.T) {
		t.Parallel()
		s, p := throughProxy(t, tiny)
		s.startLoad()
		for _, at := range s.handshakes(p, 1) {
			p.arm(cut{connection: -1, down: at.down, n: at.n})
			s.refused("Mirror ", s.viaProxy(p))
			if p.left() > 0 {
				t.Fatalf("the connection was not cut at %+v", at)
			}
		}
		s.unnoticed()
		s.plain()
		s.migrate(s.viaProxy(p))
		s.departs()
	})
	for share := range cutScenarios {
		t.Run("later", func(t *testing.T) {
			t.Parallel()
			s, p := throughProxy(t, tiny)
			s.startLoad()
			all := s.handshakes(p, cutStep)
			for i := share; i < len(all); i += cutScenarios {
				p.arm(cut{connection: 0, down: all[i].down, n: all[i].n})
				p.begin(1) // the first connection of the migration gets through
				rehearsal := s.viaProxy(p)
				rehearsal.then = "nothing"
				s.migrate(rehearsal)
				if answer, err := s.a.ask("mirror_wait"); err != nil || answer.Code != 0 {
					t.Fatalf("the rehearsal with a cut at %+v: %+v, %v", all[i], answer, err)
				}
				if p.left() > 0 {
					t.Fatalf("the connection was not cut at %+v", all[i])
				}
			}
			s.unnoticed()
			s.migrate(s.viaProxy(p))
			s.departs()
		})
	}
}

// Each cut ends an attempt, and a second later the next one comes.
func cutPrepare(t *testing.T) {
	shares(t, positions(nbd.RequestSize, nbd.SimpleReplySize-1, 1), 8, func(t *testing.T, mine []position) {
		s, p := throughProxy(t, tiny)
		s.startLoad()
		var cuts []*cut
		for _, at := range mine {
			cuts = append(cuts, p.arm(cut{connection: -1, after: nbd.CmdPrepare, down: at.down, n: at.n}))
		}
		s.migrate(s.viaProxy(p))
		s.happens(cuts[len(cuts)-1])
		s.unnoticed()
		s.departs()
	})
}

// Each cut costs one COMMIT, which comes again: soon at first, then after a second.
func cutCommit(t *testing.T) {
	for share := range cutScenarios {
		t.Run("handshake", func(t *testing.T) {
			t.Parallel()
			s, p := throughProxy(t, tiny, lingers("source-before-commit", lingering))
			s.startLoad()
			all := s.handshakes(p, cutStep)
			s.migrate(s.viaProxy(p))
			s.a.comesTo("source-before-commit", 1) // only COMMIT's connections are yet to come
			mine := 0
			for i := share; i < len(all); i += cutScenarios {
				p.arm(cut{connection: -1, down: all[i].down, n: all[i].n})
				mine++
			}
			s.departs()
			if left := p.left(); left > 0 || mine == 0 {
				t.Errorf("%d of %d cuts have not happened", left, mine)
			}
		})
	}
	all := positions(nbd.RequestSize, nbd.SimpleReplySize-1, 1)
	shares(t, all, 4, func(t *testing.T, mine []position) {
		s, p := throughProxy(t, tiny)
		s.startLoad()
		for _, at := range mine {
			p.arm(cut{connection: -1, after: nbd.CmdCommit, down: at.down, n: at.n})
		}
		s.migrate(s.viaProxy(p))
		s.departs()
		if left := p.left(); left > 0 {
			t.Errorf("%d of %d cuts have not happened", left, len(mine))
		}
	})
}
