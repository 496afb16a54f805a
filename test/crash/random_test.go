// SPDX-License-Identifier: GPL-3.0-or-later

package crash

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/core/failpoint"
)

// A random run of a few kills, for every day; the soak does hundreds.
func randomKills(t *testing.T) {
	for seed := range uint64(2) {
		t.Run(fmt.Sprint(seed+1), func(t *testing.T) {
			t.Parallel()
			r := newRoulette(t, seed+1)
			r.play(8)
			t.Log(r)
		})
	}
}

// roulette lets a disk wander from A to B and back, again and again, with clients all
// the while, and kills either side at random moments and points. Whatever has died is
// started again by whoever keeps services running: the source with serve, the
// destination with listen --or-serve.
type roulette struct {
	*scenario
	seed    uint64
	random  *rand.Rand
	from    *machine // has the disk, and is to give it away
	to      *machine
	arrived bool // from got the disk from the other one: its command is listen's

	enough uint64 // so many answers by from before it is to give the disk away again
	moves  int
	killed map[string]int // by the point, or "any time"
	budget int            // kills that are left
}

func newRoulette(t *testing.T, seed uint64) *roulette {
	t.Helper()
	s := newScenario(t, setup{size: 4 << 20})
	s.options.Seed = seed
	s.mayNotice = true
	return &roulette{scenario: s, seed: seed, random: rand.New(rand.NewPCG(seed, 5)), from: s.a, to: s.b, killed: map[string]int{}}
}

func (r *roulette) String() string {
	var points []string
	for _, point := range slices.Sorted(maps.Keys(r.killed)) {
		points = append(points, fmt.Sprintf("%s %d", point, r.killed[point]))
	}
	writes, zeroes := r.load.Changes()
	return fmt.Sprintf("seed %d: %d kills, %d migrations, %d requests (%d changes), longest wait %v; %s",
		r.seed, r.kills(), r.moves, r.load.Acknowledged(), writes+zeroes,
		r.load.Pauses(r.began, time.Now()).Longest().Round(time.Millisecond), strings.Join(points, ", "))
}

func (r *roulette) kills() int {
	n := 0
	for _, k := range r.killed {
		n += k
	}
	return n
}

// play ends when so many processes have been killed and the disk has come to rest.
func (r *roulette) play(kills int) {
	r.t.Helper()
	r.budget = kills
	r.from.serve()
	r.to.restart()
	r.startLoad()
	for r.budget > 0 && !r.t.Failed() {
		r.move()
	}
	r.rest()
	r.stopLoad()
	if err := r.verdict(); err != nil {
		r.t.Error(err)
	}
	if err := r.end(); err != nil {
		r.t.Error(err)
	}
}

// rest waits until both sides are up, without more faults, and the owner has had its
// turn.
func (r *roulette) rest() {
	r.t.Helper()
	if !soon(func() bool {
		r.revive()
		_, answers := r.to.status()
		return r.to.runs() && answers && r.load.AnsweredBy(r.from.addr) >= r.enough
	}) {
		r.t.Errorf("seed %d: things do not settle\n%s\n%s", r.seed, r.a.log.String(), r.b.log.String())
	}
}

// verdict is judge for a disk that has moved often: the machines took turns, once for
// each move.
func (r *roulette) verdict() error {
	turns := []string{}
	for i := range r.moves + 1 {
		turns = append(turns, []string{r.a.addr, r.b.addr}[i%2])
	}
	return errors.Join(r.oneOwner(r.from), r.oneServer(r.from), r.history(r.from), r.turns(turns), r.leftovers())
}

// dice are the faults that a process starts with: mostly a kill, at any point, when
// that has been reached up to three times before. The points of a process's own role
// come up more often than the others.
func (r *roulette) dice(m *machine) faults {
	if r.budget <= 0 || r.random.IntN(4) == 0 {
		return nil
	}
	role := "destination-"
	if m == r.from {
		role = "source-"
	}
	var points []string
	for _, point := range failpoint.Points() {
		if strings.HasPrefix(point, role) {
			points = append(points, point, point)
		}
		points = append(points, point)
	}
	return faults{killsLater(points[r.random.IntN(len(points))], max(0, r.random.IntN(6)-2))}
}

// move lets the disk go from one to the other, over however many dead bodies.
func (r *roulette) move() {
	r.t.Helper()
	deadline := time.Now().Add(5 * time.Minute)
	next := r.moment()
	for !r.hasMoved() {
		if time.Now().After(deadline) || r.load.Err() != nil {
			r.t.Errorf("seed %d: the disk does not come to %s: %v\nA said:\n%s\nB said:\n%s", r.seed, r.to.name, r.load.Err(), r.a.log.String(), r.b.log.String())
			return
		}
		r.revive()
		r.order()
		if r.budget > 0 && time.Now().After(next) {
			r.shoot()
			next = deadline // once in a move; the rest is the dice's
		}
		time.Sleep(2 * time.Millisecond) // this is a loop that looks, and waits for no state in particular
	}
	r.settle()
}

// moment is when a process is shot at, if the disk has not moved before.
func (r *roulette) moment() time.Time {
	return time.Now().Add(time.Duration(r.random.IntN(3000)) * time.Millisecond)
}

// shoot kills one of the two, whatever it is doing.
func (r *roulette) shoot() {
	m := []*machine{r.from, r.to}[r.random.IntN(2)]
	if p := m.current(); !p.ended() {
		p.killed = true
		_ = p.cmd.Process.Signal(syscall.SIGKILL)
		<-p.exited
	}
}

// revive starts again what has died. A source that has ended by itself has given the
// disk away, and stays as it is.
func (r *roulette) revive() {
	r.t.Helper()
	for _, m := range []*machine{r.from, r.to} {
		p := m.current()
		if !p.ended() {
			continue
		}
		if m == r.from && p.cmd.ProcessState.ExitCode() != -1 && m.records().Migrated != nil {
			continue
		}
		r.count(p)
		verb := []string{"listen", "--or-serve"}
		if m == r.from && !r.arrived {
			verb = []string{"serve"}
		}
		m.launch(verb[0], r.dice(m), verb[1:]...)
		m.answers(m.current())
	}
}

// count notes how a process has died, which has to be by a kill.
func (r *roulette) count(p *process) {
	r.t.Helper()
	if p.cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		if code := p.cmd.ProcessState.ExitCode(); code != 3 || r.from.current() != p {
			r.t.Errorf("seed %d: a process has ended with %v\nA said:\n%s\nB said:\n%s", r.seed, p.cmd.ProcessState, r.a.log.String(), r.b.log.String())
		}
		return
	}
	r.budget--
	point := "any time"
	if !p.killed {
		for _, pair := range p.cmd.Env {
			if terms, is := strings.CutPrefix(pair, "GOFAIL_FAILPOINTS="); is {
				point, _, _ = strings.Cut(terms, "=")
			}
		}
	}
	r.killed[point]++
}

// order gives the order to migrate to a source that has none.
func (r *roulette) order() {
	status, answers := r.from.status()
	if !answers || status["is_mirroring"] != "false" || status["clients_allowed"] != "true" {
		return
	}
	if r.load.AnsweredBy(r.from.addr) < r.enough { // or nobody would see that it had its turn
		return
	}
	_, _, _ = r.mirrorFrom(r.from, order{to: r.to.addr, speed: []int64{0, slow * 4}[r.random.IntN(2)]})
}

// hasMoved says whether the disk is served at its new place and the old one has had
// its acknowledgement.
func (r *roulette) hasMoved() bool {
	status, _ := r.to.status()
	if status["clients_allowed"] != "true" {
		return false
	}
	state := r.from.records()
	return state.Migrated != nil && state.Migrated.Acknowledged || r.waits()
}

// waits says whether the one that had the disk waits for another already: started
// as listen, it asks for the acknowledgement and goes on.
func (r *roulette) waits() bool { return r.from.records().Incomplete != nil }

// settle checks what has to hold after each move, and turns everything round.
func (r *roulette) settle() {
	r.t.Helper()
	r.moves++
	r.from, r.to, r.arrived = r.to, r.from, true
	r.enough = r.load.AnsweredBy(r.from.addr) + 10
	if err := r.oneOwner(r.from); err != nil {
		r.t.Errorf("seed %d, move %d: %v", r.seed, r.moves, err)
	}
	if !soon(func() bool { return !r.to.runs() || r.to.records().Incomplete != nil }) {
		r.t.Errorf("seed %d, move %d: the source does not end\n%s", r.seed, r.moves, r.to.log.String())
	}
	if r.to.runs() {
		return
	}
	p := r.to.current()
	switch code := p.cmd.ProcessState.ExitCode(); code {
	case -1:
		r.count(p)
	case 0, 3:
	default:
		r.t.Errorf("seed %d: the source has ended with status %d\n%s", r.seed, code, r.to.log.String())
	}
	r.to.launch("listen", r.dice(r.to), "--or-serve")
	r.to.answers(r.to.current())
}
