// SPDX-License-Identifier: GPL-3.0-or-later

package tcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/flexnbd/flexnbd/sdk/transport"
)

// explained is an error whose sentence stands for its cause: an operator reads
// the sentence, a program asks errors.Is about the cause.
type explained struct {
	sentence string
	cause    error
}

func (e *explained) Error() string { return e.sentence }
func (e *explained) Unwrap() error { return e.cause }

// listenError and dialError are where the errors get their prefixes.
func listenError(addr transport.Address, err error) error {
	return fmt.Errorf("listen on %s: %w", addr, err)
}

func dialError(addr, bind transport.Address, err error) error {
	if bind == (transport.Address{}) {
		return fmt.Errorf("connect to %s: %w", addr, err)
	}
	from := bind.Addr
	if bind.Port != 0 {
		from = bind.String()
	}
	return fmt.Errorf("connect to %s from %s: %w", addr, from, err)
}

// contextError returns why ctx has ended. A socket's deadline, which Go takes
// from the context, can fire a moment before the context itself does: that moment
// is waited for, so that whoever looks at ctx next sees the same.
func contextError(ctx context.Context) error {
	if at, ok := ctx.Deadline(); ok && !time.Now().Before(at) {
		<-ctx.Done()
	}
	return ctx.Err()
}

func explainListen(ctx context.Context, addr transport.Address, ip netip.Addr, err error) error {
	if ended := contextError(ctx); ended != nil {
		return listenError(addr, ended)
	}
	var sentence string
	switch errnoOf(err) {
	case syscall.EADDRINUSE:
		sentence = fmt.Sprintf("%s is already in use by another program; choose another --port or stop that program", netip.AddrPortFrom(ip, addr.Port))
	case syscall.EADDRNOTAVAIL:
		sentence = fmt.Sprintf("%s is not an address of this machine; use one of its own, or 0.0.0.0 or :: for all", ip)
	case syscall.EACCES:
		sentence = fmt.Sprintf("port %d is reserved for privileged programs; choose a --port from 1024 on, or grant CAP_NET_BIND_SERVICE", addr.Port)
	case syscall.EAFNOSUPPORT:
		sentence = fmt.Sprintf("this machine has no %s; use an address of the other kind", family(ip))
	case syscall.EINVAL, syscall.ENODEV:
		if ip.Zone() == "" {
			return listenError(addr, err)
		}
		sentence = fmt.Sprintf("interface %s does not exist or does not have address %s", ip.Zone(), ip.WithZone(""))
	default:
		return listenError(addr, err)
	}
	return listenError(addr, &explained{sentence: sentence, cause: err})
}

func explainDial(ctx context.Context, addr, bind transport.Address, err error) error {
	if ended := contextError(ctx); ended != nil {
		return dialError(addr, bind, ended)
	}
	return dialError(addr, bind, &explained{sentence: dialSentence(addr, bind, err), cause: err})
}

// dialSentence says what went wrong. Bind problems are told from those of the
// connection by the system call, since EADDRNOTAVAIL can come from either.
func dialSentence(addr, bind transport.Address, err error) string {
	where := tried(addr, err)
	errno := errnoOf(err)
	if failedCall(err) == "bind" {
		switch errno {
		case syscall.EADDRNOTAVAIL:
			return fmt.Sprintf("bind address %s is not an address of this machine", bind.Addr)
		case syscall.EADDRINUSE:
			return fmt.Sprintf("bind address %s is already in use by another program; leave the port out", bind)
		case syscall.EACCES:
			return fmt.Sprintf("bind port %d is reserved for privileged programs; leave the port out", bind.Port)
		}
		return fmt.Sprintf("bind address %s cannot be used: %s", bind.Addr, reason(err))
	}
	switch errno {
	case syscall.ECONNREFUSED:
		return fmt.Sprintf("connection refused%s: nothing listens there; check the address and the port, and that the server runs", where)
	case syscall.ENETUNREACH, syscall.EHOSTUNREACH:
		return fmt.Sprintf("%s%s: check the address, the routes and the firewalls", errno, where)
	case syscall.ETIMEDOUT:
		return fmt.Sprintf("no answer%s: the machine is down, or a firewall drops the packets", where)
	case syscall.EADDRNOTAVAIL:
		return fmt.Sprintf("no free local port%s, or the bind port was used for this target a moment ago", where)
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return fmt.Sprintf("the host name %s cannot be resolved (%s); check the name, or write an IP address", addr.Addr, lookupReason(err))
	}
	return reason(err) + where
}

// tried names the address behind a host name: " (tried 127.0.0.1:4777)".
func tried(addr transport.Address, err error) string {
	var op *net.OpError
	if !errors.As(err, &op) || op.Addr == nil || op.Addr.String() == addr.String() {
		return ""
	}
	return fmt.Sprintf(" (tried %s)", op.Addr)
}

func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	errors.As(err, &errno)
	return errno
}

func failedCall(err error) string {
	var call *os.SyscallError
	if errors.As(err, &call) {
		return call.Syscall
	}
	return ""
}

// reason is err without what Go's net package puts before it.
func reason(err error) string {
	if errno := errnoOf(err); errno != 0 {
		return errno.Error()
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err.Error()
	}
	return err.Error()
}

func lookupReason(err error) string {
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return dns.Err
	}
	return reason(err)
}
