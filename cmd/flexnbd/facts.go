// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"os"
	"time"

	"github.com/flexnbd/flexnbd/core/control"
	"github.com/flexnbd/flexnbd/core/host"
	"github.com/flexnbd/flexnbd/core/mirror"
	"github.com/flexnbd/flexnbd/core/owner"
)

// status answers status. The first two are the manual's, and their order is.
func (s *serving) status(context.Context, []string) control.Answer {
	server, source, destination := s.parts()
	migration := mirror.SourceStatus{HasControl: true}
	if source != nil {
		migration = source.Status()
	}
	verdict := s.verdict(migration)
	mine := destination != nil && destination.HasControl() && verdict == owner.VerdictOwner
	var p control.Pairs
	p.Add("is_mirroring", migration.Running)
	p.Add("has_control", mine)
	p.Add("pid", os.Getpid())
	p.Add("size", s.export.Size())
	if server != nil {
		p.Add("num_clients", server.Clients())
	} else {
		p.Add("num_clients", 0)
	}
	p.Add("clients_allowed", mine && destination.Guest() == "")
	listener := s.currentListener()
	if listener != nil {
		p.Add("address", listener.Address())
	}
	p.Add("zero_map", s.zeroMap())
	if id := s.diskID(); id != "" {
		p.Add("disk_id", id)
	}
	addPlugin(&p, "backend", s.store.Process())
	p.Add("lane", s.store.Lane())
	p.Add("backend_restarts", s.store.Restarts())
	p.Add("backend_state", s.store.State())
	if listener != nil {
		addPlugin(&p, "transport", listener.Process())
	}
	p.Add("launcher_pid", s.host.LauncherPID())
	s.mu.Lock()
	sandbox := s.sandbox
	s.mu.Unlock()
	p.Add("sandbox", sandbox)
	if s.records != nil {
		p.Add("records", s.records.Place())
		p.Add("owner_state", verdict)
	}
	addMigration(&p, migration)
	if destination != nil && !destination.HasControl() {
		addArrival(&p, destination.Status())
	}
	if mine && destination.Guest() != "" {
		p.Add("waits_for_address", s.home())
	}
	return control.Answer{Text: p.String()}
}

// verdict is what the records say. Once the disk has been given away for good, there
// may be none left.
func (s *serving) verdict(m mirror.SourceStatus) owner.Verdict {
	verdict := owner.VerdictOwner
	if s.records != nil {
		verdict = s.records.State().Verdict()
	}
	if verdict == owner.VerdictOwner && !m.HasControl {
		return owner.VerdictDeparted
	}
	return verdict
}

// addMigration says how a migration from here goes, or what became of the last one.
func addMigration(p *control.Pairs, m mirror.SourceStatus) {
	if m.Running {
		if sends(m.State) {
			p.Add("migration_speed", m.Speed)
			p.Add("migration_seconds_left", m.SecondsLeft)
			p.Add("migration_bytes_left", m.BytesLeft)
			p.Add("migration_bytes_sent", m.BytesSent)
		}
		p.Add("migration_duration", int64(m.Duration/time.Second))
		p.Add("migration_speed_limit", m.SpeedLimit)
		p.Add("migration_state", m.State)
		if m.Attempt > 0 { // not where only COMMIT is repeated
			p.Add("migration_pass", m.Pass)
			p.Add("migration_attempt", m.Attempt)
		}
		p.Add("migration_converging", !m.NotConverging)
		p.Add("migration_to", m.To)
	}
	if m.LastError != nil {
		p.Add("migration_error", m.LastError)
	}
	if m.PauseLast > 0 {
		p.Add("migration_pause_ms", m.PauseLast.Milliseconds())
	}
}

// sends says whether there are figures of a copy: before and after there is nothing
// that they could be about.
func sends(state mirror.SourceState) bool {
	switch state {
	case mirror.StateCopying, mirror.StateConverging, mirror.StateWriteThrough, mirror.StateFlushing, mirror.StateHolding, mirror.StatePreparing:
		return true
	}
	return false
}

// addArrival says how a migration to here goes.
func addArrival(p *control.Pairs, d mirror.DestinationStatus) {
	p.Add("arrival_state", d.State)
	if d.Sender != "" {
		p.Add("arrival_from", d.Sender)
	}
	p.Add("arrival_bytes", d.BytesReceived)
	if d.State == mirror.DestinationPrepared {
		p.Add("prepared_id", d.ID)
	}
}

// diskID is what records call the disk, where they can't be beside it.
func (s *serving) diskID() string {
	if s.options.ID != "" {
		return s.options.ID
	}
	return s.export.Info().Identity
}

// zeroMap says whether zeroes written to holes are left out on the whole disk yet.
func (s *serving) zeroMap() string {
	select {
	case <-s.export.Built():
		return "ready"
	default:
		return "building"
	}
}

func addPlugin(p *control.Pairs, kind string, process *host.Process) {
	d := process.Description()
	p.Add(kind, d.Name)
	p.Add(kind+"_version", d.Version)
	p.Add(kind+"_path", process.Path())
	p.Add(kind+"_pid", process.PID())
}
