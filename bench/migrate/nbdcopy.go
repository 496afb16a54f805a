// SPDX-License-Identifier: GPL-3.0-or-later

package migrate

import (
	"context"
	"errors"
	"net"
	"time"
)

// nbdcopy copies with nbdcopy between two nbdkits, started and warm as the flexnbds
// are. nbdcopy has its defaults, but for the options given. 4 threads for each
// connection are what makes nbdkit fastest on two CPUs, see docs/performance.md.
func (b *bench) nbdcopy(options ...string) func(context.Context, *folder, image) (turn, error) {
	return func(ctx context.Context, where *folder, disk image) (t turn, err error) {
		dir, err := where.below("destination")
		if err != nil {
			return t, err
		}
		copied, err := emptyImage(dir, disk.size)
		if err != nil {
			return t, err
		}
		from, fromURI, err := nbdkit(ctx, dir, disk)
		if err != nil {
			return t, err
		}
		defer func() { err = errors.Join(err, from.stop()) }()
		to, toURI, err := nbdkit(ctx, dir, copied)
		if err != nil {
			return t, err
		}
		defer func() { err = errors.Join(err, to.stop()) }()
		return copyBetween(ctx, dir, from, to, append(options, fromURI, toURI))
	}
}

func copyBetween(ctx context.Context, dir string, from, to *program, arguments []string) (t turn, err error) {
	before, err := cpuOf(from, to)
	if err != nil {
		return t, err
	}
	began := time.Now()
	p, err := start(dir, "nbdcopy", arguments...)
	if err != nil {
		return t, err
	}
	if err := p.wait(ctx); err != nil {
		return t, errors.Join(err, p.stop())
	}
	took := p.at.Sub(began)
	after, err := cpuOf(from, to, p)
	return turn{done: took, served: took, owned: took, cpu: after - before}, err
}

// nbdkit serves an image, and returns where.
func nbdkit(ctx context.Context, dir string, i image) (*program, string, error) {
	port, err := freePort()
	if err != nil {
		return nil, "", err
	}
	p, err := start(dir, "nbdkit", "--foreground", "--ipaddr", "127.0.0.1", "--port", port, "--threads", "4", "file", "file="+i.path, "cache=default")
	if err != nil {
		return nil, "", err
	}
	address := net.JoinHostPort("127.0.0.1", port)
	if err := serving(ctx, p, address); err != nil {
		return nil, "", errors.Join(err, p.stop())
	}
	return p, "nbd://" + address, nil
}

// freePort finds a port that was free a moment ago.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	_, port := split(l.Addr().String())
	return port, l.Close()
}

// split takes an address apart that is known to be one.
func split(address string) (host, port string) {
	host, port, _ = net.SplitHostPort(address)
	return host, port
}
