// SPDX-License-Identifier: GPL-3.0-or-later

package crash

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/core/nbd"
)

func heldDestinationStopped(t *testing.T) {
	s := newScenario(t, setup{maxPause: time.Second})
	s.start(faults{lingers("source-held", 400)}, nil)
	s.migrate(order{})
	s.a.comesTo("source-held", 1)
	s.b.suspend()
	s.unnoticed()
	s.a.says("has_control", "true")
	s.b.resume()
	s.departs()
}

func heldSourceKilled(t *testing.T) {
	each(t, []string{"source-held", "source-drained", "source-before-prepare"}, func(t *testing.T, point string) {
		s := begin(t, faults{kills(point)}, nil)
		s.mayNotice = true
		s.migrate(order{})
		s.a.dies()
		s.nobody()
		s.plain()
		s.goesOn()
	})
}

func prepareDestinationStopped(t *testing.T) {
	each(t, []string{"destination-prepare", "destination-flushed", "destination-prepared"}, func(t *testing.T, point string) {
		s := newScenario(t, setup{maxPause: time.Second})
		s.start(nil, faults{stops(point)})
		s.migrate(order{})
		s.b.isStopped()
		first := s.a.records().Next.ID
		s.attemptFails("held for longer")
		s.b.resume()
		s.departs()
		if s.a.records().Migrated.ID == first {
			t.Error("the next attempt has the same id")
		}
	})
}

func prepareDestinationKilled(t *testing.T) {
	each(t, []string{"destination-prepare", "destination-flushed"}, func(t *testing.T, point string) {
		s := begin(t, nil, faults{kills(point)})
		s.migrate(order{})
		s.b.dies()
		s.attemptFails("")
		s.plain()
		s.b.restart()
		s.departs()
	})
}

func prepareNoSpace(t *testing.T) {
	s := begin(t, nil, faults{fails("destination-prepare", "ENOSPC")})
	s.migrate(order{})
	s.attemptFails("did not prepare itself")
	s.departs()
}

func prepareIOError(t *testing.T) {
	each(t, []string{"destination-prepare", "destination-flushed"}, func(t *testing.T, point string) {
		s := begin(t, nil, faults{fails(point, "EIO")})
		s.migrate(order{})
		s.attemptFails("did not prepare itself")
		s.departs()
	})
}

// PREPARE's record is the last of those that a destination writes before COMMIT: the
// others are the probe at its start, the first .INCOMPLETE, and the note of the first data
// in it.
func prepareRecordFails(t *testing.T) {
	for point, earlier := range map[string]int{"owner-written": 3, "owner-synced": 3, "owner-renamed": 2, "owner-dir-synced": 4} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			errno := "EIO"
			if point == "owner-written" {
				errno = "ENOSPC"
			}
			s := begin(t, nil, faults{failsLater(point, errno, earlier)})
			s.migrate(order{})
			s.attemptFails("did not prepare itself")
			s.departs()
		})
	}
}

func prepareReplyLost(t *testing.T) {
	t.Run("with the connection", func(t *testing.T) {
		t.Parallel()
		s := begin(t, nil, nil)
		p := newProxy(t, s.address(5), s.b.addr)
		lost := p.arm(cut{connection: -1, after: nbd.CmdPrepare, down: true})
		s.migrate(order{to: p.addr})
		s.happens(lost)
		first := s.a.records().Next.ID
		s.attemptFails("")
		s.departs()
		if s.a.records().Migrated.ID == first {
			t.Error("the next attempt has the same id")
		}
	})
	t.Run("with the destination", func(t *testing.T) {
		t.Parallel()
		s := begin(t, nil, faults{kills("destination-prepared")})
		s.migrate(order{})
		s.b.dies()
		s.prepared()
		s.attemptFails("")
		s.b.restart()
		s.departs()
	})
}

func preparedSourceKilled(t *testing.T) {
	each(t, []string{"source-prepare-answered", "source-before-rename"}, func(t *testing.T, point string) {
		s := begin(t, faults{kills(point)}, nil)
		s.mayNotice = true
		s.migrate(order{})
		s.a.dies()
		s.nobody()
		s.prepared()
		s.goesOn()
	})
}

func preparedSourceLost(t *testing.T) {
	each(t, []string{"source-prepare-answered", "source-before-rename"}, func(t *testing.T, point string) {
		s := begin(t, faults{kills(point)}, nil)
		s.mayNotice = true
		s.migrate(order{})
		s.a.dies()
		if err := os.Remove(s.a.image); err != nil {
			t.Fatal(err)
		}
		s.nobody()
		status, _ := s.b.status()
		if answer, err := s.b.ask("promote", "00112233445566778899aabbccddeeff"); err != nil || !strings.HasPrefix(answer.Text, "wrong id") {
			t.Errorf("promote with another id: %+v, %v", answer, err)
		}
		s.promote(status["prepared_id"])
		s.finish(s.b)
	})
}

// promote makes the destination the owner once it has noticed that the source is gone.
func (s *scenario) promote(id string) {
	s.t.Helper()
	var text string
	if !soon(func() bool {
		answer, err := s.b.ask("promote", id)
		text = answer.Text
		return err == nil && answer.Code == 0
	}) {
		s.t.Fatalf("promote says %q", text)
	}
}
