// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/core/acl"
	"github.com/flexnbd/flexnbd/core/control"
	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/host"
	"github.com/flexnbd/flexnbd/core/mirror"
	"github.com/flexnbd/flexnbd/core/owner"
	"github.com/flexnbd/flexnbd/core/privilege"
	"github.com/flexnbd/flexnbd/core/server"
	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// serving is one run of serve or listen.
type serving struct {
	options   *diskOptions
	acl       acl.List
	log       hclog.Logger
	named     func(thread string) hclog.Logger
	backend   host.Program
	disk      wire.Disk
	transport host.Program
	carrier   host.Spec // what --transport says
	at        transport.Address

	user   *privilege.User // who to become; nil: nobody else
	socket control.Socket  // how the control socket is made

	ignoreMigrated bool       // serve
	listen         *listening // nil with serve

	// Opened in this order.
	host       *host.Host
	dialler    *host.Dialler
	store      *host.Disk
	records    *owner.Records // nil where none can be kept
	recordsErr error          // why
	export     *export.Export

	// What the control socket asks.
	mu          sync.Mutex
	listener    *host.Listener // nil before and after
	server      *server.Server // nil before
	source      *mirror.Source
	destination *mirror.Destination // nil before
	controls    sync.WaitGroup
	leaving     sync.WaitGroup     // closes the listening socket
	sandbox     string             // as status shows it
	confined    bool               // or it was decided not to
	hangs       bool               // the migration waits for the kernel, which nothing ends; set before run ends
	endControl  context.CancelFunc // nil before there is a control socket
}

// startTimeout bounds everything up to the point where clients can connect.
const startTimeout = 60 * time.Second

// patience is that, and a day where somebody may look at a plugin in a debugger.
func (s *serving) patience() time.Duration {
	if s.backend.Waits() || s.transport.Waits() {
		return 24 * time.Hour
	}
	return startTimeout
}

// run starts everything, serves, and takes everything down again in the reverse
// order, whatever happened in between.
func (s *serving) run() (err error) {
	stop, force, release := stopSignals(s.log)
	defer release()
	if s.host, err = host.NewLaunching(s.log, host.Launching{Plans: s.plans(), User: s.user, Socket: s.options.Sock}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.host.Close()) }()
	defer func() { err = errors.Join(err, s.close()) }()
	s.dialler = s.host.Dialler(s.transport)
	s.sandbox = "off"

	plan, err := s.open(stop)
	if err == nil && plan == planDepart {
		if plan, err = s.finishDeparture(stop); err != nil || plan == planNothing {
			return err
		}
	}
	if err == nil {
		err = s.start(stop, plan)
	}
	if err != nil {
		if stop.Err() != nil {
			s.log.Info("stopped during the start", "reason", err)
			return nil
		}
		return err
	}
	defer s.endMigrations()
	return s.serve(stop, force)
}

// open opens the disk, which takes its lock, and then looks whose it is.
func (s *serving) open(ctx context.Context) (plan plan, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.patience())
	defer cancel()
	s.store, err = s.host.OpenDisk(ctx, s.backend, s.disk)
	if wrong := (wire.OptionError{}); errors.As(err, &wrong) {
		return planNothing, usagef("%w; 'flexnbd help --backend %s' shows its options", err, s.backend.Asked())
	}
	if err != nil {
		return planNothing, s.orDeparted(err)
	}
	if s.user != nil {
		// From here on as the user, who will have to get along with it later.
		if err := s.user.Lower(); err != nil {
			return planNothing, errors.Join(err, s.store.Close())
		}
	}
	plan, err = s.openRecords()
	if err != nil {
		return planNothing, errors.Join(err, s.store.Close())
	}
	s.export, err = export.Open(ctx, s.store, export.Options{ReadOnly: s.disk.ReadOnly, Logger: s.log.ResetNamed("export")})
	if err != nil {
		return planNothing, err
	}
	s.store.OnRestart(s.export.Restarted)
	s.store.OnFailure(s.export.Failed)
	return plan, nil
}

// close closes what there is. The disk goes with the export.
func (s *serving) close() error {
	if s.endControl != nil {
		s.endControl()
		s.controls.Wait()
	}
	var err error
	if l := s.currentListener(); l != nil {
		if err = l.Close(); err != nil {
			err = fmt.Errorf("stop listening on %s: %w", l.Address(), err)
		}
	}
	s.leaving.Wait()
	err = errors.Join(err, s.dialler.Close())
	if s.export != nil {
		err = errors.Join(err, s.export.Close(context.Background()))
	}
	if s.records != nil && !s.hangs {
		err = errors.Join(err, s.records.Close())
	}
	return err
}

// start is begin that leaves the records as they were if nobody could connect.
func (s *serving) start(ctx context.Context, plan plan) error {
	err := s.begin(ctx, plan)
	if err != nil && plan == planListen && s.records != nil {
		err = errors.Join(err, s.records.Retract())
	}
	return err
}

// begin listens, then opens the control socket, which tells whoever waits for it
// that the server is ready. A disk that is yet to come is recorded before.
func (s *serving) begin(ctx context.Context, plan plan) error {
	ctx, cancel := context.WithTimeout(ctx, s.patience())
	defer cancel()
	if plan == planListen {
		if err := s.expect(); err != nil {
			return err
		}
	}
	listener, err := s.host.Listen(ctx, s.transport, s.at)
	if err != nil {
		return err
	}
	s.setListener(listener)
	s.startMigrations(plan)
	if err := s.moveIn(); err != nil {
		s.endMigrations()
		return err
	}
	s.log.Info(plan.String(), "file", s.options.File, "size", s.export.Size(), "address", listener.Address())
	s.ready("%v at %v: %q", plan, listener.Address(), s.options.File)
	return nil
}

// serve serves until stop ends or the disk is gone.
func (s *serving) serve(stop, force context.Context) error {
	running, end := context.WithCancel(context.WithoutCancel(stop))
	defer end()
	var watcher sync.WaitGroup
	var fate error
	watcher.Go(func() {
		defer end()
		fate = s.watch(stop, force, running)
	})
	err := s.server.Run(running, force)
	s.notify(daemon.SdNotifyStopping, "stopping")
	end()
	watcher.Wait()
	return errors.Join(fate, err)
}

// moveIn opens the control socket, if it was asked for, which is the last thing that
// takes more than this process may do from here on: before anybody is answered there, it
// confines itself. A second time it does nothing.
func (s *serving) moveIn() error {
	if s.confined {
		return nil
	}
	if s.options.Sock == "" {
		return s.confine()
	}
	socket, err := s.listenControl()
	if err != nil {
		return err
	}
	if err := s.confine(); err != nil {
		return errors.Join(err, socket.Close())
	}
	controlling, end := context.WithCancel(context.Background())
	s.endControl = end
	s.controls.Go(func() {
		if err := socket.Serve(controlling, s.verbs()); err != nil {
			s.log.Error("control socket failed", "error", err)
		}
	})
	return nil
}

// listenControl makes the control socket, as root where root has started the server.
func (s *serving) listenControl() (socket *control.Server, err error) {
	if s.user != nil {
		if err := privilege.Raise(); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, s.user.Lower()) }()
	}
	return control.Listen(s.options.Sock, s.socket, s.log.ResetNamed("control"))
}

// abandon makes every call to the disk fail, so that nothing waits for it.
func (s *serving) abandon() {
	if err := s.store.Abandon(); err != nil {
		s.log.Error("backend cannot be ended", "error", err)
	}
}

func (s *serving) currentListener() *host.Listener {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listener
}

func (s *serving) setListener(l *host.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listener = l
}
