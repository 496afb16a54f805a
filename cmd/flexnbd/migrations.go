// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/flexnbd/flexnbd/core/failpoint"
	"github.com/flexnbd/flexnbd/core/mirror"
	"github.com/flexnbd/flexnbd/core/owner"
	"github.com/flexnbd/flexnbd/core/server"
	"github.com/flexnbd/flexnbd/sdk/transport"
)

// startMigrations makes both halves of a migration and the server between them.
func (s *serving) startMigrations(plan plan) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.destination = mirror.NewDestination(mirror.DestinationConfig{
		Export:    s.export,
		Records:   s.records,
		Waiting:   plan == planListen,
		Address:   s.home,
		Handshake: s.options.handshake(),
		Log:       s.log.ResetNamed("listen"),
	})
	if s.rebind() != nil {
		// A disk that has arrived is served at its own address only, also when it
		// had arrived before this process began: see watch.
		s.destination.Serving(false)
	}
	s.server = server.New(server.Config{
		Listener:       s.listener,
		Export:         s.export,
		ACL:            s.acl,
		MaxClients:     s.options.MaxClients,
		Migration:      s.destination,
		Handshake:      s.options.handshake(),
		RequestTimeout: s.options.requestTimeout(),
		Abandon:        s.abandon,
		Log:            s.log,
	})
	s.source = s.newSource(s.leave, s.server.Disconnect)
}

func (s *serving) newSource(leave func(context.Context) error, cut func()) *mirror.Source {
	config := mirror.SourceConfig{
		Export:       s.export,
		Records:      s.records,
		RecordsError: s.recordsErr,
		Dial:         s.dialler.Dial,
		Leave:        leave,
		Cut:          cut,
		Log:          s.log.ResetNamed("mirror"),
	}
	if s.isFile() {
		config.Unlink = s.unlink
	}
	return mirror.NewSource(config)
}

// endMigrations waits for whatever the two still do.
func (s *serving) endMigrations() {
	s.destination.Close()
	if !s.hangs {
		s.source.Close()
	}
}

// watch sees to what migrations do to the server. It returns when the server is to
// stop: by a signal, because the disk has been given away (nil), or because nobody
// may serve it any more (an error).
func (s *serving) watch(stop, force, running context.Context) error {
	arrived := s.destination.Owned()
	if s.listen == nil {
		arrived = nil // it was here from the beginning
	}
	settling, cancel := context.WithCancel(running)
	var settler sync.WaitGroup
	defer settler.Wait()
	defer cancel()
	settled := make(chan error, 1)
	launcher := s.host.LauncherEnded()
	for {
		select {
		case <-launcher:
			launcher = nil
			s.log.Error("the launcher of plugins has ended: a plugin that crashes can't be started again, so restart flexnbd soon")
		case <-arrived:
			arrived = nil
			settler.Go(func() { settled <- s.settle(settling) })
		case err := <-settled:
			if err != nil {
				return err
			}
		case <-s.source.Departed():
			s.log.Info("the disk has been given away")
			return nil
		case err := <-s.source.Fatal():
			s.sendAway()
			return err
		case err := <-s.destination.Fatal():
			return err
		case <-stop.Done():
			return s.interrupt(force)
		case <-running.Done():
			return nil
		}
	}
}

// settle makes the server serve a disk that has arrived, where it is to be served.
// A bind that fails is repeated until it succeeds: the server that had the disk
// before may be there yet.
func (s *serving) settle(ctx context.Context) error {
	if err := failpoint.Hit("destination-before-rebind"); err != nil {
		return err
	}
	if home := s.rebind(); home != nil {
		told := time.Time{}
		l, err := s.host.ListenWhenFree(ctx, s.transport, *home, func(err error) {
			if time.Since(told) > time.Minute { // it may take for ever
				told = time.Now()
				s.log.Warn("the disk is here, but its address is not free yet", "address", home, "error", err)
			}
		})
		if err != nil {
			if ctx.Err() != nil {
				return nil // stopped, or given away again
			}
			return err
		}
		s.setListener(l)
		if err := s.server.MoveTo(l); err != nil {
			s.log.Warn("the listener before the move cannot be closed", "error", err)
		}
	}
	if err := failpoint.Hit("destination-rebound"); err != nil {
		return err
	}
	s.destination.Serving(true)
	s.ready("%v at %v: %q", planServe, s.currentListener().Address(), s.options.File)
	s.log.Info("serving a disk that has arrived", "file", s.options.File, "size", s.export.Size(), "address", s.currentListener().Address())
	return nil
}

// rebind is where the disk is served once it is here, or nil for where it arrives.
func (s *serving) rebind() *transport.Address {
	if s.listen == nil {
		return nil
	}
	return s.listen.rebind
}

// home is the address at which the disk is, or will be, served.
func (s *serving) home() transport.Address {
	if home := s.rebind(); home != nil {
		return *home
	}
	return s.currentListener().Address()
}

// interrupt ends a migration because of a signal. Before the commit point clients
// are let in again; after it they can only be sent away.
func (s *serving) interrupt(force context.Context) error {
	s.closeSource(force)
	if s.hangs {
		s.sendAway()
		return errors.New("stopped while the kernel has not answered yet, so that it is not known whether the disk was given away: start flexnbd again with the same command, which finds out")
	}
	state := owner.State{}
	if s.records != nil {
		state = s.records.State()
	}
	if state.Verdict() != owner.VerdictDeparting {
		return nil
	}
	s.sendAway()
	return unacknowledged(*state.Migrated)
}

// closeSource ends the migration that is under way. It waits for its reads of the
// disk: if the backend hangs, for as long as clients would get, or until force ends.
func (s *serving) closeSource(force context.Context) {
	closed := make(chan struct{})
	go func() { // ends with the process where the kernel hangs
		s.source.Close()
		close(closed)
	}()
	limit := time.NewTimer(server.DefaultStopTimeout)
	defer limit.Stop()
	select {
	case <-closed:
		return
	case <-limit.C:
	case <-force.Done():
	}
	s.log.Warn("the migration waits for the backend, which is ended")
	s.abandon()
	limit.Reset(abandonTime)
	select {
	case <-closed:
	case <-limit.C:
		s.hangs = true
	}
}

// abandonTime is how long the calls of a backend that was killed may take to fail.
const abandonTime = 5 * time.Second

// sendAway ends every client's connection without a reply, what waits at the gate
// included: an error would be an answer, where clients have to repeat their request.
func (s *serving) sendAway() {
	s.export.Gate().Close()
	s.server.Disconnect()
}

// finishDeparture repeats COMMIT for a disk that was given away before a crash, with
// nothing open but the control socket.
func (s *serving) finishDeparture(stop context.Context) (plan, error) {
	departure := *s.records.State().Migrated
	if s.listen != nil {
		// The next disk is to be written to the image that --unlink would remove.
		departure.Unlink = false
	}
	source := s.newSource(func(context.Context) error { return nil }, func() {})
	s.mu.Lock()
	s.source = source
	s.mu.Unlock()
	defer source.Close()
	if err := s.moveIn(); err != nil {
		return planNothing, err
	}
	s.ready("telling the new owner at %v that the disk is its own", departure.To)
	source.Resume(stop, departure)
	select {
	case <-source.Departed():
	case err := <-source.Fatal():
		return planNothing, err
	case <-stop.Done():
		return planNothing, unacknowledged(departure)
	}
	s.log.Info("the new owner has acknowledged that the disk is its own", "id", departure.ID)
	if s.listen == nil {
		return planNothing, nil
	}
	return planListen, nil
}

// unacknowledged is how a server ends that has given its disk away and has no answer
// yet.
func unacknowledged(d owner.Departure) error {
	return fmt.Errorf("stopped before the new owner at %v has acknowledged that the disk is its own: start flexnbd again with the same command, so that it asks on", d.To)
}

// leave closes the listening socket, so that the disk's new server can have the
// address. A transport that hangs goes on with that when ctx has ended.
func (s *serving) leave(ctx context.Context) error {
	left := make(chan error, 1)
	s.leaving.Go(func() { left <- s.server.Leave() })
	select {
	case err := <-left:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// unlink removes the image, durably.
func (s *serving) unlink(context.Context) error {
	path, err := filepath.EvalSymlinks(s.options.File)
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path)) // first, since afterwards it is too late to fail
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	if err := os.Remove(path); err != nil {
		return err
	}
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("%s is removed, but perhaps not durably: %w", path, err)
	}
	return nil
}
