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
	// Listener is where clients connect, until [Server.MoveTo]. The server closes
	// it.
	Listener transport.Listener
	Export   *export.Export
	// Migration says who may connect, where that depends on whose disk it is. Nil
	// lets in whomever the ACL allows.
	Migration session.Migration
	// ACL says who is served; anyone else is disconnected at once.
	ACL acl.List
	// MaxClients bounds the clients. Handshakes count as clients while there are
	// places for them. A further connection is closed at once or, where there is a
	// Migration, soon: at the latest when it asks for the disk. Those of a
	// migration do not count and are always let in.
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

// movedTimeout is what clients have to take their last replies once their disk has
// been given away. Nothing but those replies waits for them.
const movedTimeout = 2 * time.Second

// cutTimeout bounds how long the backend may take to finish what it was asked
// once the connections are cut.
const cutTimeout = 5 * time.Second

// flushTimeout bounds the flush after the last session has ended.
const flushTimeout = 20 * time.Second

// Server serves one disk. Run it once.
type Server struct {
	config  Config
	clients clients
	door    door
	moved   chan struct{} // closed by Disconnect
	away    sync.Once
}

// New makes a server that does nothing until Run.
func New(config Config) *Server {
	if config.StopTimeout == 0 {
		config.StopTimeout = DefaultStopTimeout
	}
	return &Server{
		config: config,
		clients: clients{
			guard:  acl.NewGuard(config.ACL),
			most:   config.MaxClients,
			spares: spares(config),
			open:   map[*connection]struct{}{},
		},
		door:  door{listener: config.Listener},
		moved: make(chan struct{}),
	}
}

func spares(config Config) int {
	if config.Migration == nil {
		return 0
	}
	return maxSpares
}

// Clients is how many clients are connected, those in their handshake included. The
// connections of a migration are none.
func (s *Server) Clients() int { return s.clients.count() }

// ReplaceACL puts another access list in force, at once and as a whole, and
// disconnects the clients whom it does not allow. What an empty list means stays
// as it was. The error is an [*acl.BadEntry]; then nothing has changed.
func (s *Server) ReplaceACL(entries []string) error { return s.clients.replaceACL(entries) }

// MoveTo makes the server accept at l from now on, which belongs to it. The
// listener before is closed when it returns. Connections live on. After Leave, and
// once Run has stopped accepting, nothing is listened at any more: l is closed.
func (s *Server) MoveTo(l transport.Listener) error { return s.door.moveTo(l) }

// Leave stops accepting, for good: when it returns nobody can connect, and the
// address can be listened at by others. Run goes on.
func (s *Server) Leave() error { return s.door.shut() }

// Disconnect ends every connection without another reply but those that are on
// their way, whatever the client is in the middle of. The Export's gate has to be
// closed, so that a client repeats its requests at the disk's new home. It does not
// wait.
func (s *Server) Disconnect() { s.away.Do(func() { close(s.moved) }) }

// Run serves until stop ends, then shuts down as the package comment says. The
// error is nil when everything that was acknowledged is durable, here or, after
// Disconnect, where the disk has gone. Not being able
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
	defer func() { _ = s.door.shut() }() // whoever leaves asks for the error
	for {
		conn, err := s.door.accept(stop)
		switch {
		case errors.Is(err, errShut):
			<-stop.Done()
			return nil
		case stop.Err() != nil:
			if err == nil {
				_ = conn.Socket.Close()
			}
			return nil
		case err != nil:
			return err
		}
		cl, spare, why := s.clients.admit(cutting, conn.Peer)
		if cl == nil {
			s.config.Log.Warn("client turned away: "+why, "peer", conn.Peer.Address)
			_ = conn.Socket.Close()
			continue
		}
		sessions.Go(func() {
			defer s.clients.leave(cl)
			s.serve(cl, spare, stopping, conn)
		})
	}
}

// serve runs one session. spare: there is no place for it unless it is a migration's.
func (s *Server) serve(cl *connection, spare bool, stopping <-chan struct{}, conn transport.Conn) {
	log := s.config.Log.ResetNamed(cl.name())
	log.Info("connected", "peer", cl.peer.Address, "network", cl.peer.Network)
	handshakeTimeout := s.config.HandshakeTimeout
	if spare {
		log.Warn(s.clients.full()+": nobody is let in but a migration", "peer", cl.peer.Address)
		if handshakeTimeout == 0 || handshakeTimeout > spareTime {
			handshakeTimeout = spareTime
		}
	}
	err := session.Serve(cl.ctx, conn.Socket, session.Config{
		Export:           s.config.Export,
		Log:              log,
		Stopping:         stopping,
		Moved:            s.moved,
		Migration:        s.config.Migration,
		Admission:        cl,
		Peer:             cl.peer.Address,
		Handshake:        s.config.Handshake,
		HandshakeTimeout: handshakeTimeout,
		RequestTimeout:   s.config.RequestTimeout,
	})
	why := context.Cause(cl.ctx)
	if errors.Is(why, errEvicted) || errors.Is(why, errGaveWay) || errors.Is(why, errTooManySenders) {
		err = why
	}
	switch {
	case errors.Is(err, export.ErrMovedAway):
		log.Info("disconnected, since the disk has moved away", "peer", cl.peer.Address)
		return
	case err != nil && !errors.Is(err, net.ErrClosed):
		log.Warn("client dropped", "peer", cl.peer.Address, "reason", err)
		return
	}
	log.Info("disconnected", "peer", cl.peer.Address)
}

// finish waits for the sessions, or cuts them off, then flushes.
//
// Once the disk has been given away nothing of that is an error, and there is no
// flush: whatever was acknowledged is at its new home, durably, and a backend here
// that is slow, broken or hanging loses nothing of it. A failure would say that the
// migration had failed. Where it is not sure whether the disk was given away, whoever
// called Disconnect has an error of his own.
func (s *Server) finish(force context.Context, sessions *sync.WaitGroup, cut context.CancelFunc) error {
	err := s.windUp(force, sessions, cut)
	if err != nil && s.hasMoved() {
		s.config.Log.Warn("the end was not in order, which loses nothing since the disk has moved away", "error", err)
		return nil
	}
	return err
}

func (s *Server) hasMoved() bool {
	select {
	case <-s.moved:
		return true
	default:
		return false
	}
}

// windUp is finish, in which everything matters.
func (s *Server) windUp(force context.Context, sessions *sync.WaitGroup, cut context.CancelFunc) error {
	done := make(chan struct{})
	go func() { sessions.Wait(); close(done) }()

	limit := s.config.StopTimeout
	if s.hasMoved() {
		limit = min(limit, movedTimeout)
	}
	ended := await(force, done, limit)
	if !ended && force.Err() == nil {
		s.config.Log.Warn("clients do not finish and are cut off", "after", limit, "connections", s.clients.connections())
		cut()
		ended = await(force, done, cutTimeout)
	}
	if ended && s.hasMoved() {
		return nil
	}
	if ended {
		return s.flush(force)
	}
	s.config.Log.Warn("requests in flight are given up, the backend is ended", "connections", s.clients.connections())
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
