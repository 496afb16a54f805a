// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/acl"
	"github.com/flexnbd/flexnbd/core/control"
	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/host"
	"github.com/flexnbd/flexnbd/core/server"
	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

type serveCommand struct {
	Addr string `short:"l" long:"addr" value-name:"ADDR" required:"yes" description:"The address to listen on"`
	Port port   `short:"p" long:"port" value-name:"PORT" required:"yes" description:"The port to listen on; 0 picks one, which status shows"`
	File string `short:"f" long:"file" value-name:"FILE" required:"yes" description:"The file to serve, or what the backend takes instead; must exist"`
	Sock string `short:"s" long:"sock" value-name:"SOCK" description:"The control socket to open"`

	DefaultDeny bool   `short:"d" long:"default-deny" description:"With an empty access list, let nobody connect"`
	ReadOnly    bool   `short:"r" long:"read-only" description:"Refuse writes, and share the file with other read-only servers"`
	MaxClients  int    `long:"max-clients" value-name:"N" default:"256" description:"The most clients that may be connected at a time"`
	Backend     string `long:"backend" value-name:"NAME|/PATH[,key=value...]" default:"file" description:"The backend plugin"`

	pluginOptions
	app *app
}

// Usage implements flags.Usage.
func (c *serveCommand) Usage() string {
	return "--addr ADDR --port PORT --file FILE [options] [ACL entry]..."
}

// Execute implements flags.Commander. Arguments are access list entries.
func (c *serveCommand) Execute(args []string) error {
	if c.MaxClients < 1 {
		return usagef("--max-clients %d: at least one client has to fit", c.MaxClients)
	}
	list, err := acl.Parse(args, c.DefaultDeny)
	if err != nil {
		return usageError{err}
	}
	backend, spec, err := c.find(wire.KindBackend, c.Backend)
	if err != nil {
		return err
	}
	carrier, carrierSpec, err := c.find(wire.KindTransport, c.Transport)
	if err != nil {
		return err
	}
	if len(carrierSpec.Options) > 0 {
		return usagef("--transport %s: this transport takes no options", carrierSpec.Name+carrierSpec.Path)
	}
	s := &serving{
		command:   c,
		acl:       list,
		log:       c.app.logger("main"),
		backend:   backend,
		disk:      wire.Disk{Location: c.File, ReadOnly: c.ReadOnly, Options: spec.Options},
		transport: carrier,
	}
	return s.run()
}

// serving is one run of the serve command.
type serving struct {
	command   *serveCommand
	acl       acl.List
	log       hclog.Logger
	backend   host.Program
	disk      wire.Disk
	transport host.Program

	backendProcess, transportProcess *host.Process
	export                           *export.Export
	listener                         transport.Listener
	server                           *server.Server
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
	// The plugins outlive force: what they hold is flushed and closed first.
	err = s.startPlugins(starting, h)
	defer func() { err = errors.Join(err, s.stopPlugins()) }()
	if err != nil {
		return s.orStopped(stop, err)
	}
	err = s.open(starting)
	defer func() { err = errors.Join(err, s.close()) }()
	if err != nil {
		return s.orStopped(stop, err)
	}
	return s.serve(stop, force)
}

// orStopped makes an error that only says that a signal came during the start
// into the clean end that was asked for.
func (s *serving) orStopped(stop context.Context, err error) error {
	if stop.Err() != nil {
		s.log.Info("stopped during the start")
		return nil
	}
	return err
}

// stopSignals returns a context that ends at the first signal, and one that ends
// at the second.
func stopSignals(log hclog.Logger) (stop, force context.Context, release func()) {
	stop, stopNow := context.WithCancel(context.Background())
	force, forceNow := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM)
	done := make(chan struct{})
	var waiter sync.WaitGroup
	waiter.Go(func() {
		for _, end := range []context.CancelFunc{stopNow, forceNow} {
			select {
			case s := <-signals:
				log.Info("stopping", "signal", s)
				end()
			case <-done:
				return
			}
		}
	})
	return stop, force, func() {
		signal.Stop(signals)
		close(done)
		waiter.Wait()
		stopNow()
		forceNow()
	}
}

// startPlugins starts both at a time.
func (s *serving) startPlugins(ctx context.Context, h *host.Host) error {
	var backendErr, transportErr error
	var starts sync.WaitGroup
	starts.Go(func() { s.backendProcess, backendErr = h.Start(ctx, s.backend) })
	starts.Go(func() { s.transportProcess, transportErr = h.Start(ctx, s.transport) })
	starts.Wait()
	return errors.Join(backendErr, transportErr)
}

func (s *serving) stopPlugins() error {
	ctx := context.Background()
	var err error
	if s.transportProcess != nil {
		err = s.transportProcess.Stop(ctx)
	}
	if s.backendProcess != nil {
		err = errors.Join(err, s.backendProcess.Stop(ctx))
	}
	return err
}

// open opens the disk, then listens: nobody can connect to what is not there.
func (s *serving) open(ctx context.Context) error {
	disk, err := s.backendProcess.OpenDisk(ctx, s.disk)
	if err != nil {
		return err
	}
	s.export, err = export.Open(ctx, disk, export.Options{ReadOnly: s.command.ReadOnly, Logger: s.log.ResetNamed("export")})
	if err != nil {
		return errors.Join(err, disk.Close())
	}
	at := transport.Address{Addr: s.command.Addr, Port: uint16(s.command.Port)}
	s.listener, err = s.transportProcess.Transport().Listen(ctx, at)
	return err
}

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
		Listener:   s.listener,
		Export:     s.export,
		ACL:        s.acl,
		MaxClients: s.command.MaxClients,
		Abandon:    s.abandon,
		Log:        s.log,
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
			if err := socket.Serve(controlling, map[string]control.Verb{"status": s.status}); err != nil {
				s.log.Error("control socket failed", "error", err)
			}
		})
	}
	s.log.Info("serving", "file", s.command.File, "size", s.export.Size(), "address", s.listener.Address())
	return s.server.Run(stop, force)
}

// abandon makes every call to the disk fail, so that nothing waits for it.
func (s *serving) abandon() {
	dead, cancel := context.WithCancel(context.Background())
	cancel() // no time to end by itself
	if err := s.backendProcess.Stop(dead); err != nil {
		s.log.Error("backend cannot be ended", "error", err)
	}
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
	addPlugin(&p, "backend", s.backendProcess)
	addPlugin(&p, "transport", s.transportProcess)
	return control.Answer{Text: p.String()}
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
