// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"context"
	"fmt"
	"time"

	"github.com/flexnbd/flexnbd/core/failpoint"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/core/owner"
	"github.com/flexnbd/flexnbd/core/session"
)

// Hello implements [session.Migration]. A connection for COMMIT is always let in and
// disturbs nobody. One that sends a disk begins an attempt, and then waits until
// nothing of older ones is under way, or joins the one whose id it brings. Nothing
// is withdrawn here: a handshake alone changes no record.
func (d *Destination) Hello(ctx context.Context, hello nbd.MigrationHello, link session.Link) (session.Sender, nbd.MigrationAnswer, error) {
	if err := d.checkHello(hello); err != nil {
		return nil, nbd.MigrationAnswer{}, err
	}
	if hello.Purpose == nbd.MigrationCommit {
		d.log.Info("a source asks whether the disk has been taken over", "peer", link.Peer(), "migration", owner.ID(hello.ID))
		return &committer{destination: d, id: hello.ID, link: link}, d.answer(0), nil
	}
	if err := failpoint.Hit("destination-hello"); err != nil {
		return nil, nbd.MigrationAnswer{}, err
	}
	s, older, joins, err := d.admit(hello, link)
	if err != nil {
		return nil, nbd.MigrationAnswer{}, err
	}
	var flags nbd.MigrationFlags
	if joins {
		err = d.await(ctx, s, s.attempt.ready)
	} else {
		flags, err = d.replace(ctx, s, older)
	}
	if err == nil {
		err = d.welcome(s, hello, joins)
	}
	if err != nil {
		d.dismiss(s, joins, err)
		return nil, nbd.MigrationAnswer{}, err
	}
	return s, d.answer(flags), nil
}

// checkHello looks at what the hello says by itself.
func (d *Destination) checkHello(hello nbd.MigrationHello) error {
	if err := hello.Check(); err != nil {
		return &session.Refusal{Reply: nbd.RepErrInvalid, Text: err.Error()}
	}
	size := d.config.Export.Size()
	if hello.Purpose == nbd.MigrationSend && hello.Size != uint64(size) {
		return &session.Refusal{Reply: nbd.RepErrUnknown,
			Text: fmt.Sprintf("the disk to be sent has %d bytes, the one here %d; make them the same size", hello.Size, size)}
	}
	return nil
}

// admit decides whether a sender may come in, and makes it known. Unless it joins an
// attempt, older are the connections that have to end first.
func (d *Destination) admit(hello nbd.MigrationHello, link session.Link) (s *sender, older []session.Link, joins bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.mayReplace(hello); err != nil {
		return nil, nil, false, err
	}
	s = &sender{destination: d, link: link}
	switch a := d.attempt; {
	case d.knows(link):
		return nil, nil, false, &session.Refusal{Reply: nbd.RepErrInvalid, Text: "this connection belongs to a migration already"}
	case a != nil && a.id == hello.ID && a.ending == nil:
		if err := mayJoin(a, hello); err != nil {
			return nil, nil, false, err
		}
		s.attempt, joins = a, true
	case d.gone.has(hello.ID):
		return nil, nil, false, policy("migration %v is over and can't be joined again; begin a new one", owner.ID(hello.ID))
	default:
		if other := d.stranger(hello.Source); other != nil {
			return nil, nil, false, policy("%s is sending a disk to this server; wait until it has ended", other.link.Peer())
		}
		older = d.fence(errFenced)
		s.attempt = newAttempt(hello.ID, hello.Source, hello.Replaces)
		d.attempt = s.attempt
	}
	d.live[s] = struct{}{}
	d.lastSender = time.Now()
	return s, older, joins, nil
}

// mayReplace says why no disk may be sent to here, or not by this hello.
func (d *Destination) mayReplace(hello nbd.MigrationHello) error {
	switch prepared := d.prepared(); {
	case d.phase == phaseOwner:
		return policy("this server owns the disk; to receive one it has to be started with flexnbd listen")
	case d.phase == phaseUncertain:
		return policy(uncertain)
	case hello.ID == d.received():
		return policy("migration %v has been completed", owner.ID(hello.ID))
	case prepared != owner.ID{} && hello.ID == prepared:
		return policy("this server is prepared for migration %v, which can only be committed now", prepared)
	case prepared != owner.ID{} && hello.Replaces != prepared:
		return policy("this server is prepared for migration %v, which a sender that does not name it can't replace; "+
			"if that migration's source lives and serves the disk, stop this server, remove .INCOMPLETE and start flexnbd listen again; "+
			"only if it is gone for good, and can never serve again, make this server the owner with flexnbd promote %v", prepared, prepared)
	}
	return nil
}

// mayJoin says why another connection of an attempt is not let in.
func mayJoin(a *attempt, hello nbd.MigrationHello) error {
	switch {
	case a.source != hello.Source || a.replaces != hello.Replaces:
		return &session.Refusal{Reply: nbd.RepErrInvalid, Text: fmt.Sprintf("migration %v began with another source, or replaces another one", a.id)}
	case a.sealed:
		return policy("migration %v has come to its PREPARE; no further connection can join it", a.id)
	}
	return nil
}

// knows says whether a connection has brought a hello before.
func (d *Destination) knows(link session.Link) bool {
	for s := range d.live {
		if s.link == link {
			return true
		}
	}
	return false
}

// stranger returns a sender that is connected, was not cut, and is not source's.
func (d *Destination) stranger(source owner.ID) *sender {
	for s := range d.live {
		if !s.cut && s.attempt.source != source {
			return s
		}
	}
	return nil
}

// replace cuts older connections and waits until nothing of them is carried out any
// more. Only then is the disk asked what is on it.
func (d *Destination) replace(ctx context.Context, s *sender, older []session.Link) (nbd.MigrationFlags, error) {
	cut(older)
	for _, l := range older {
		if err := d.await(ctx, s, l.Ended()); err != nil {
			return 0, fmt.Errorf("an older connection, of %s, has not ended yet: %w", l.Peer(), err)
		}
	}
	zeroes, err := d.config.Export.ReadsAsZeroes(ctx)
	if err != nil {
		d.log.Warn("the disk's extents can't be read; the sender will send its holes too", "error", err)
	}
	if !zeroes || err != nil {
		return 0, nil
	}
	return nbd.MigrationZeroes, nil
}

// await waits for one thing on behalf of a hello.
func (d *Destination) await(ctx context.Context, s *sender, what <-chan struct{}) error {
	select {
	case <-what:
		return nil
	case <-s.attempt.over:
		return policy("migration %v is over", s.attempt.id)
	case <-ctx.Done():
		return ctx.Err()
	case <-d.ctx.Done():
		return &session.Refusal{Reply: nbd.RepErrShutdown, Text: errClosed.Error()}
	}
}

// welcome opens the attempt. It looks again at what may have changed meanwhile: a
// PREPARE that was in hand may have succeeded, a COMMIT may have come.
func (d *Destination) welcome(s *sender, hello nbd.MigrationHello, joins bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := s.attempt
	if err := d.mayReplace(hello); err != nil {
		return err
	}
	if a.ending != nil {
		return policy("migration %v is over: %v", a.id, a.ending)
	}
	if joins {
		d.log.Info("another connection of the sender", "peer", s.link.Peer(), "migration", a.id)
		return nil
	}
	close(a.ready)
	d.log.Info("a sender has connected", "peer", s.link.Peer(), "migration", a.id, "source", a.source)
	return nil
}

// dismiss takes back what admit did, for a hello that is refused after all.
func (d *Destination) dismiss(s *sender, joined bool, why error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.live, s)
	if !joined {
		d.becomeOver(s.attempt, why)
	}
}

// answer is what the destination says of itself.
func (d *Destination) answer(flags nbd.MigrationFlags) nbd.MigrationAnswer {
	home := d.address()
	d.mu.Lock()
	defer d.mu.Unlock()
	answer := nbd.MigrationAnswer{
		Version: nbd.MigrationVersion,
		Flags:   flags,
		Size:    uint64(d.config.Export.Size()),
		Address: home.Addr,
		Port:    home.Port,
	}
	switch prepared := d.prepared(); {
	case d.phase == phaseOwner:
		answer.Flags |= nbd.MigrationOwner
	case d.phase == phaseWaiting && prepared != owner.ID{}:
		answer.Flags |= nbd.MigrationPrepared
		answer.Prepared = prepared
	}
	return answer
}

// policy is the refusal of something that is understood.
func policy(format string, args ...any) error {
	return &session.Refusal{Reply: nbd.RepErrPolicy, Text: fmt.Sprintf(format, args...)}
}
