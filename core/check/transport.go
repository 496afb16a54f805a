// SPDX-License-Identifier: GPL-3.0-or-later

package check

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/flexnbd/flexnbd/core/host"
	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/transporttest"
)

const transportPart = "transport"

// transport checks a transport.
func (r *run) transport(ctx context.Context) {
	if !r.starts(ctx) {
		return
	}
	tcp := false
	if !r.try(ctx, promise{
		transportPart, "ConnectsAtTheAddress",
		"Transport: Listen starts to listen at addr, Dial connects there",
		func(ctx context.Context) (string, error) {
			return "", r.with(ctx, r.employTransport(&tcp), func(_ *host.Process, w work) error { return w.call(ctx) })
		},
	}, true) {
		return
	}
	r.lives(ctx, r.employTransport(nil))
	r.transportSuite(ctx, tcp)
}

// at returns an address where nobody listens yet. remove clears away its folder.
func (r *run) at() (_ transport.Address, remove func() error, _ error) {
	at := r.Address
	if !strings.Contains(at.Addr, dirWord) {
		return at, func() error { return nil }, nil
	}
	dir, err := os.MkdirTemp("", "fnbd") // short enough for a socket
	if err != nil {
		return transport.Address{}, nil, fmt.Errorf("no folder to listen in: %w", err)
	}
	at.Addr = strings.ReplaceAll(at.Addr, dirWord, dir)
	return at, func() error { return os.RemoveAll(dir) }, nil
}

// employTransport has a process listen. Each call makes a connection, and tells tcp,
// unless it is nil, whether both its ends are sockets of TCP.
func (r *run) employTransport(tcp *bool) employ {
	return func(ctx context.Context, p *host.Process) (work, error) {
		at, remove, err := r.at()
		if err != nil {
			return work{}, err
		}
		t := p.Transport()
		l, err := t.Listen(ctx, at)
		if err != nil {
			return work{}, errors.Join(err, remove())
		}
		return work{
			call:   func(ctx context.Context) error { return connect(ctx, t, l, tcp) },
			done:   l.Close,
			remove: remove,
		}, nil
	}
}

func connect(ctx context.Context, t transport.Transport, l transport.Listener, tcp *bool) error {
	type end struct {
		conn transport.Conn
		err  error
	}
	dialling := make(chan end, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		c, err := t.Dial(ctx, l.Address(), transport.Address{})
		if err != nil {
			cancel() // nobody comes
		}
		dialling <- end{c, err}
	}()
	accepted, err := l.Accept(ctx)
	if err != nil {
		cancel()
	}
	dialled := <-dialling
	if dialled.err != nil {
		err = dialled.err
	}
	var isTCP [2]bool
	for i, c := range []transport.Conn{accepted, dialled.conn} {
		if c.Socket != nil {
			_, isTCP[i] = c.Socket.(*net.TCPConn)
			_ = c.Socket.Close()
		}
	}
	if tcp != nil {
		*tcp = isTCP == [2]bool{true, true}
	}
	return err
}

// transportSuite runs sdk/transporttest in one process.
func (r *run) transportSuite(ctx context.Context, tcp bool) {
	p, err := r.host.Start(ctx, r.Program)
	if err != nil {
		r.report(Result{Part: transportPart, Name: "Starts", Says: "a plugin starts whenever it is needed", Err: err})
		return
	}
	subject := transporttest.Subject{Transport: p.Transport(), PIDs: []int{p.PID()}}
	if tcp {
		subject.PeerAddress = transporttest.LocalAddress
		if deaf, err := transporttest.ListenDeaf(); err == nil {
			defer deaf.Close()
			subject.Unresponsive = deaf.Address
		}
		if r.Address.Addr == "127.0.0.1" {
			subject.Bind = transport.Address{Addr: "127.0.0.2"}
		}
	}
	last := func() error { return nil } // removes the folder of the clause before
	r.log.forget()
	transporttest.Suite{
		Subject: func() (transporttest.Subject, error) {
			err := last()
			if err == nil {
				subject.Listen, last, err = r.at()
			}
			return subject, err
		},
		LeaveOut: func(c transporttest.Clause) string {
			if r.wanted(transportPart, c.Name) {
				return ""
			}
			return notWanted
		},
	}.Check(ctx, func(t transporttest.Result) {
		r.report(Result{Part: transportPart, Name: t.Name, Says: t.Says, Err: t.Err, Skipped: t.Skipped, Took: t.Took})
	})
	r.try(ctx, promise{
		transportPart, "FlexnbdHasNothingToWarnOf",
		"flexnbd warns in its log where a plugin ends in the middle or loses connections",
		func(ctx context.Context) (string, error) {
			return "", errors.Join(last(), p.Stop(context.WithoutCancel(ctx)), r.log.err())
		},
	}, true)
	_ = p.Stop(context.WithoutCancel(ctx)) // again, if that clause was not reached
}
