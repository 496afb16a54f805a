// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/core/acl"
	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/session"
	"github.com/flexnbd/flexnbd/sdk/transport"
)

// Config is what a server needs. All of it outlives Run.
type Config struct {
	Listener transport.Listener
	Export   *export.Export
	// ACL says who is served; anyone else is disconnected at once.
	ACL acl.List
	// MaxClients bounds the connections, those in their handshake included. A
	// further one is closed at once.
	MaxClients int
	// Abandon makes every call of the Export's Store fail, now and later.
	Abandon func()
	// StopTimeout bounds how long clients may take to finish once the server
	// stops. 0 means [DefaultStopTimeout].
	StopTimeout time.Duration
	// The next three are session.Config's.
	Handshake                        session.Handshake
	HandshakeTimeout, RequestTimeout time.Duration

	Log hclog.Logger
}

// DefaultStopTimeout is shorter than what service managers allow.
const DefaultStopTimeout = 20 * time.Second

// cutTimeout bounds how long the backend may take to finish what it was asked
// once the connections are cut.
const cutTimeout = 5 * time.Second

// flushTimeout bounds the flush after the last session has ended.
const flushTimeout = 20 * time.Second

// Server serves one disk. Run it once.
type Server struct {
	config  Config
	clients clients
}

// New makes a server that does nothing until Run.
func New(config Config) *Server {
	if config.StopTimeout == 0 {
		config.StopTimeout = DefaultStopTimeout
	}
	return &Server{config: config, clients: clients{
		guard: acl.NewGuard(config.ACL),
		most:  config.MaxClients,
		open:  map[*connection]struct{}{},
	}}
}

// Clients is how many connections there are.
func (s *Server) Clients() int { return s.clients.count() }

// ReplaceACL puts another access list in force, at once and as a whole, and
// disconnects the clients whom it does not allow. What an empty list means stays
// as it was. The error is an [*acl.BadEntry]; then nothing has changed.
func (s *Server) ReplaceACL(entries []string) error { return s.clients.replaceACL(entries) }

// Run serves until stop ends, then shuts down as the package comment says. The
// error is nil when everything that was acknowledged is durable. Not being able
// to accept any more also ends it, with an error. If a request hangs where Abandon
// can't reach it, its session outlives Run; the process has to end then.
func (s *Server) Run(stop, force context.Context) error {
	cutting, cut := context.WithCancel(context.WithoutCancel(force))
	defer cut()
	stopping := make(chan struct{})

	var sessions sync.WaitGroup
	acceptErr := s.accept(stop, cutting, stopping, &sessions)
	if acceptErr != nil {
		s.config.Log.Error("no more clients can connect", "error", acceptErr)
	}
	close(stopping)
	err := s.finish(force, &sessions, cut)
	return errors.Join(acceptErr, err)
}

// accept admits clients until stop ends.
func (s *Server) accept(stop, cutting context.Context, stopping <-chan struct{}, sessions *sync.WaitGroup) error {
	defer func() { _ = s.config.Listener.Close() }()
	for {
		conn, err := s.config.Listener.Accept(stop)
		if stop.Err() != nil {
			if err == nil {
				_ = conn.Socket.Close()
			}
			return nil
		}
		if err != nil {
			return err
		}
		cl, why := s.clients.admit(cutting, conn.Peer)
		if cl == nil {
			s.config.Log.Warn("client turned away: "+why, "peer", conn.Peer.Address)
			_ = conn.Socket.Close()
			continue
		}
		sessions.Go(func() {
			defer s.clients.leave(cl)
			s.serve(cl, stopping, conn)
		})
	}
}

// serve runs one session.
func (s *Server) serve(cl *connection, stopping <-chan struct{}, conn transport.Conn) {
	log := s.config.Log.ResetNamed(cl.name)
	log.Info("connected", "peer", cl.peer.Address, "network", cl.peer.Network)
	err := session.Serve(cl.ctx, conn.Socket, session.Config{
		Export:           s.config.Export,
		Log:              log,
		Stopping:         stopping,
		Handshake:        s.config.Handshake,
		HandshakeTimeout: s.config.HandshakeTimeout,
		RequestTimeout:   s.config.RequestTimeout,
	})
	if errors.Is(context.Cause(cl.ctx), errEvicted) {
		err = errEvicted
	}
	if err != nil && !errors.Is(err, net.ErrClosed) {
		log.Warn("client dropped", "peer", cl.peer.Address, "reason", err)
		return
	}
	log.Info("disconnected", "peer", cl.peer.Address)
}

// finish waits for the sessions, or cuts them off, then flushes.
func (s *Server) finish(force context.Context, sessions *sync.WaitGroup, cut context.CancelFunc) error {
	done := make(chan struct{})
	go func() { sessions.Wait(); close(done) }()

	ended := await(force, done, s.config.StopTimeout)
	if !ended && force.Err() == nil {
		s.config.Log.Warn("clients do not finish and are cut off", "after", s.config.StopTimeout, "clients", s.Clients())
		cut()
		ended = await(force, done, cutTimeout)
	}
	if ended {
		return s.flush(force)
	}
	s.config.Log.Warn("requests in flight are given up, the backend is ended", "clients", s.Clients())
	cut()
	s.config.Abandon()
	if !await(context.WithoutCancel(force), done, cutTimeout) {
		// On a lent descriptor the core itself waits for the device, and nothing
		// ends that but the device, or the end of the process.
		return errors.New("stopped while a request hangs in the kernel, which waits for the disk; what was not flushed may be lost")
	}
	return errors.New("stopped before every request had finished; what was not flushed may be lost")
}

// await waits for done, for at most limit and no longer than until force ends.
func await(force context.Context, done <-chan struct{}, limit time.Duration) bool {
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case <-done:
		return true
	case <-timeout.C:
	case <-force.Done():
	}
	return false
}

func (s *Server) flush(force context.Context) error {
	if s.config.Export.ReadOnly() {
		return nil
	}
	ctx, cancel := context.WithTimeout(force, flushTimeout)
	defer cancel()
	if err := s.config.Export.Flush(ctx); err != nil {
		s.config.Abandon()
		return fmt.Errorf("flush before the end: %w", err)
	}
	return nil
}
