// SPDX-License-Identifier: GPL-3.0-or-later

package journal

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// Server is where the disk may be served.
type Server struct {
	Network string // "tcp" or "unix"
	Address string // as for net.Dial
}

// TCP is a server at HOST:PORT.
func TCP(address string) Server { return Server{"tcp", address} }

// Unix is a server at a socket's path.
func Unix(path string) Server { return Server{"unix", path} }

// Options say what a Load does. The zero value of each but Servers has a meaning.
type Options struct {
	// Servers are tried in turn, beginning with the first, whenever a connection
	// is needed; the one that let a connection in last is tried first.
	Servers []Server

	// Connections is how many there are, each with one request at a time. 0: 4.
	Connections int

	// Seed decides what is requested. The order in which the connections'
	// requests meet is not decided by it.
	Seed uint64

	// Reads, Writes and Zeroes are the shares of each kind of request. All 0:
	// 5, 4 and 1.
	Reads, Writes, Zeroes int

	// Smallest and Largest bound a request's length, in bytes. 0: 4 and 64 KiB.
	Smallest, Largest int64

	// Align is what offsets and lengths are multiples of, in bytes, itself a
	// multiple of SectorSize. 0: SectorSize.
	Align int64

	// Hot is the length of each of the four ranges, spread over the disk, to
	// which half of the requests go. 0: 256 KiB, or less on a small disk. Negative:
	// there are none.
	Hot int64

	// BytesPerSecond is how much all connections together request. 0: as fast as
	// the answers come.
	BytesPerSecond int64

	// Patience is how long a connection tries to find a server that lets it in
	// before the Load has failed. 0: 30 seconds.
	Patience time.Duration

	// HandshakeTimeout bounds one such attempt. 0: 2 seconds.
	HandshakeTimeout time.Duration

	// RequestTimeout is after how long without an answer a connection is given
	// up. 0: never, since a server that holds requests is no broken one. Writes
	// that are given up are open-ended in the model, see the package comment.
	RequestTimeout time.Duration

	// Dial makes connections. nil: a net.Dialer.
	Dial func(context.Context, Server) (net.Conn, error)
}

// RandomWrites changes the options to writes of 4 KiB all over the disk, without
// hot ranges.
func (o Options) RandomWrites() Options {
	o.Reads, o.Writes, o.Zeroes = 0, 1, 0
	o.Smallest, o.Largest, o.Align, o.Hot = 4<<10, 4<<10, 4<<10, -1
	return o
}

// hotRanges is how many there are.
const hotRanges = 4

// filled returns the options with the defaults for a disk of size bytes, or what is
// wrong with them.
func (o Options) filled(size int64) (Options, error) {
	if o.Reads == 0 && o.Writes == 0 && o.Zeroes == 0 {
		o.Reads, o.Writes, o.Zeroes = 5, 4, 1
	}
	o.Connections = orElse(o.Connections, 4)
	o.Align = orElse(o.Align, SectorSize)
	o.Smallest = orElse(o.Smallest, min(4<<10, size))
	o.Largest = orElse(o.Largest, min(max(64<<10, o.Smallest), size))
	o.Hot = orElse(o.Hot, min(256<<10, size/hotRanges))
	o.Patience = orElse(o.Patience, 30*time.Second)
	o.HandshakeTimeout = orElse(o.HandshakeTimeout, 2*time.Second)
	if o.Dial == nil {
		o.Dial = func(ctx context.Context, s Server) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, s.Network, s.Address)
		}
	}
	switch {
	case len(o.Servers) == 0:
		return o, errors.New("journal: a load needs the address of a server")
	case o.Connections < 0 || o.Reads < 0 || o.Writes < 0 || o.Zeroes < 0 || o.BytesPerSecond < 0:
		return o, errors.New("journal: a number is negative")
	case o.Align < SectorSize || o.Align%SectorSize != 0 || o.Smallest%o.Align != 0 || o.Largest%o.Align != 0:
		return o, fmt.Errorf("journal: requests of %d to %d bytes, aligned to %d: not sectors", o.Smallest, o.Largest, o.Align)
	case o.Smallest < o.Align || o.Largest < o.Smallest || o.Largest > size || o.Largest > maxRequest:
		return o, fmt.Errorf("journal: requests of %d to %d bytes on a disk of %d", o.Smallest, o.Largest, size)
	}
	return o, nil
}

// maxRequest is what every NBD server takes ("Size constraints").
const maxRequest = 32 << 20

func orElse[T comparable](v, otherwise T) T {
	var none T
	if v == none {
		return otherwise
	}
	return v
}
