// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/core/acl"
	"github.com/flexnbd/flexnbd/core/control"
	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/host"
	"github.com/flexnbd/flexnbd/core/server"
	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// serving is one run of the serve command.
type serving struct {
	command   *serveCommand
	acl       acl.List
	log       hclog.Logger
	backend   host.Program
	disk      wire.Disk
	transport host.Program
	at        transport.Address

	store    *host.Disk
	export   *export.Export
	listener *host.Listener
	server   *server.Server
}

// startTimeout bounds everything up to the point where clients can connect.
const startTimeout = 60 * time.Second

// run starts everything, serves, and takes everything down again in the reverse
// order, whatever happened in between.
func (s *serving) run() (err error) {
	stop, force, release := stopSignals(s.log)
	defer release()

	h, err := host.New(s.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	starting, cancel := context.WithTimeout(stop, startTimeout)
	defer cancel()
	err = s.open(starting, h)
	defer func() { err = errors.Join(err, s.close()) }()
	if err != nil {
		if stop.Err() != nil {
			s.log.Info("stopped during the start")
			return nil
		}
		return err
	}
	return s.serve(stop, force)
}

// open opens the disk, then listens: nobody can connect to what is not there.
func (s *serving) open(ctx context.Context, h *host.Host) (err error) {
	s.store, err = h.OpenDisk(ctx, s.backend, s.disk)
	if err != nil {
		return err
	}
	s.export, err = export.Open(ctx, s.store, export.Options{ReadOnly: s.command.ReadOnly, Logger: s.log.ResetNamed("export")})
	if err != nil {
		return err
	}
	s.store.OnRestart(s.export.Restarted)
	s.store.OnFailure(s.export.Failed)
	s.listener, err = h.Listen(ctx, s.transport, s.at)
	return err
}

// close closes what open opened. The disk goes with the export.
func (s *serving) close() error {
	var err error
	if s.listener != nil {
		if err = s.listener.Close(); err != nil {
			err = fmt.Errorf("stop listening on %s: %w", s.listener.Address(), err)
		}
	}
	if s.export != nil {
		err = errors.Join(err, s.export.Close(context.Background()))
	}
	return err
}

// serve opens the control socket, which tells whoever waits for it that the
// server is ready, and serves until stop ends.
func (s *serving) serve(stop, force context.Context) error {
	s.server = server.New(server.Config{
		Listener:       s.listener,
		Export:         s.export,
		ACL:            s.acl,
		MaxClients:     s.command.MaxClients,
		Handshake:      s.command.handshake(),
		RequestTimeout: s.command.requestTimeout(),
		Abandon:        s.abandon,
		Log:            s.log,
	})
	var controls sync.WaitGroup
	defer controls.Wait()
	controlling, endControl := context.WithCancel(context.Background())
	defer endControl()
	if s.command.Sock != "" {
		socket, err := control.Listen(s.command.Sock, s.log.ResetNamed("control"))
		if err != nil {
			return err
		}
		controls.Go(func() {
			if err := socket.Serve(controlling, map[string]control.Verb{"status": s.status, "acl": s.replaceACL}); err != nil {
				s.log.Error("control socket failed", "error", err)
			}
		})
	}
	s.log.Info("serving", "file", s.command.File, "size", s.export.Size(), "address", s.listener.Address())
	return s.server.Run(stop, force)
}

// abandon makes every call to the disk fail, so that nothing waits for it.
func (s *serving) abandon() {
	if err := s.store.Abandon(); err != nil {
		s.log.Error("backend cannot be ended", "error", err)
	}
}

// replaceACL answers the control socket's acl.
func (s *serving) replaceACL(_ context.Context, entries []string) control.Answer {
	err := s.server.ReplaceACL(entries)
	var bad *acl.BadEntry
	switch {
	case errors.As(err, &bad):
		return control.Answer{Code: 1, Text: "bad spec: " + bad.Entry}
	case err != nil:
		return control.Answer{Code: 1, Text: err.Error()}
	}
	return control.Answer{Text: "updated"}
}

// status answers the control socket's status.
func (s *serving) status(context.Context, []string) control.Answer {
	var p control.Pairs
	p.Add("is_mirroring", false)
	p.Add("has_control", true)
	p.Add("pid", os.Getpid())
	p.Add("size", s.export.Size())
	p.Add("num_clients", s.server.Clients())
	p.Add("clients_allowed", true)
	p.Add("address", s.listener.Address())
	p.Add("zero_map", s.zeroMap())
	if id := s.diskID(); id != "" {
		p.Add("disk_id", id)
	}
	addPlugin(&p, "backend", s.store.Process())
	p.Add("lane", s.store.Lane())
	p.Add("backend_restarts", s.store.Restarts())
	p.Add("backend_state", s.store.State())
	addPlugin(&p, "transport", s.listener.Process())
	return control.Answer{Text: p.String()}
}

// diskID is what records call the disk, where they can't be beside it.
func (s *serving) diskID() string {
	if s.command.ID != "" {
		return s.command.ID
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
