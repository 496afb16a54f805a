// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/sdk/socketfile"
)

// Verb answers one kind of request. It is called from many goroutines; ctx
// ends when the server does, and Serve waits for it. That the client has gone
// does not end ctx, except with [UntilHangup].
type Verb func(ctx context.Context, args []string) Answer

const (
	maxClients  = 64
	requestTime = 10 * time.Second // for a client to send its request
	answerTime  = 10 * time.Second // for a client to take its answer
	acceptPause = 50 * time.Millisecond
)

// Server is a control socket that takes requests.
type Server struct {
	socket      *socketfile.Listener
	log         hclog.Logger
	requestTime time.Duration
	hangupLook  time.Duration
	places      chan struct{} // a token for each client
}

// Listen makes the socket at path. A socket there that no process has open is
// replaced; one that is open, or anything else of that name, is an error. From here on
// clients can connect; they are answered once [Server.Serve] runs.
func Listen(path string, how Socket, log hclog.Logger) (*Server, error) {
	socket, err := how.bind(path)
	if err != nil {
		return nil, err
	}
	return &Server{
		socket:      socket,
		log:         log,
		requestTime: requestTime,
		hangupLook:  hangupLook,
		places:      make(chan struct{}, maxClients),
	}, nil
}

// Close ends the socket and removes its path, unless something else has taken
// that place. Serve does so by itself; it is for a server that never served,
// and may be called again.
func (s *Server) Close() error {
	if err := s.socket.Close(); err != nil {
		return fmt.Errorf("control socket %s: %w", s.socket.Path(), err)
	}
	return nil
}

// Serve answers requests until ctx ends or Close is called, then closes the
// socket, waits for the verbs that are running, and returns. It is called
// once. A verb that is not in verbs is unknown.
func (s *Server) Serve(ctx context.Context, verbs map[string]Verb) error {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	var clients sync.WaitGroup
	err := s.accept(ctx, verbs, &clients)
	cancel()
	clients.Wait()
	stop()
	return errors.Join(err, s.Close()) // waits for the one that AfterFunc started
}

func (s *Server) accept(ctx context.Context, verbs map[string]Verb, clients *sync.WaitGroup) error {
	for {
		conn, err := s.socket.AcceptUnix()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil: // out of descriptors or memory: that passes
			s.log.Warn("accept on the control socket failed, trying again", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		select {
		case s.places <- struct{}{}:
			clients.Go(func() {
				defer func() { <-s.places }()
				s.client(ctx, conn, verbs)
			})
		default:
			s.refuse(conn)
		}
	}
}

// refuse answers without reading the request, at once: the answer fits the
// socket's buffer.
func (s *Server) refuse(conn *net.UnixConn) {
	text := fmt.Sprintf("too many requests on the control socket, %d at once are the most: try again", maxClients)
	s.log.Warn("control client refused: too many at once", "most", maxClients)
	s.reply(conn, Answer{Code: 1, Text: text})
}

// client reads one request, answers it, and closes.
func (s *Server) client(ctx context.Context, conn *net.UnixConn, verbs map[string]Verb) {
	_ = conn.SetReadDeadline(time.Now().Add(s.requestTime))
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	asked, err := readRequest(conn)
	if err != nil {
		s.reply(conn, s.refusal(ctx, err))
		return
	}
	verb, ok := verbs[asked.verb]
	if !ok {
		s.log.Warn("unknown control request", "verb", asked.verb)
		s.reply(conn, unknownCommand)
		return
	}
	answer := verb(context.WithValue(ctx, callerKey{}, caller{conn, s.hangupLook}), asked.args)
	s.log.Debug("control request", "verb", asked.verb, "arguments", len(asked.args), "answer", answer)
	s.reply(conn, answer)
}

// refusal is the answer to a request that could not be read.
func (s *Server) refusal(ctx context.Context, err error) Answer {
	switch {
	case errors.Is(err, errNoVerb): // also who only looks whether we are there
		return missingCommand
	case ctx.Err() != nil:
		return Answer{Code: 1, Text: "shutting down"}
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.log.Warn("control client cut off: no whole request in time", "limit", s.requestTime)
		return Answer{Code: 1, Text: fmt.Sprintf("no whole request within %v", s.requestTime)}
	}
	s.log.Warn("bad control request", "err", err)
	return Answer{Code: 1, Text: "bad request: " + err.Error()}
}

// reply sends the answer and closes. A client that has gone meanwhile has no
// use for it.
func (s *Server) reply(conn *net.UnixConn, answer Answer) {
	_ = conn.SetWriteDeadline(time.Now().Add(answerTime))
	if _, err := conn.Write([]byte(answer.String() + "\n")); err != nil {
		s.log.Debug("control answer not delivered", "err", err)
	}
	_ = conn.Close()
}
