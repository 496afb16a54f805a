// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/flexnbd/flexnbd/core/sandbox"
	"github.com/flexnbd/flexnbd/core/sandbox/sandboxtest"
	"github.com/flexnbd/flexnbd/sdk"
	"github.com/flexnbd/flexnbd/sdk/fdstore"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/transport"
)

// A plugin that was taken over: it serves its disk, or connects, and a read or a Dial
// makes it try what it should not be able to.

// openHostile opens an image as the stock backend does.
func openHostile(_ context.Context, disk sdk.Disk) (store.Store, error) {
	if disk.Lease != nil {
		s, err := fdstore.Reopen(disk.Lease, disk.Location, fdstore.Options{})
		if err != nil {
			return nil, err
		}
		return hostile{Store: s, image: disk.Location}, nil
	}
	f, err := os.OpenFile(disk.Location, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	s, err := fdstore.New(f, fdstore.Options{})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := sandbox.DropCapabilities(); err != nil { // as the stock backend does
		return nil, err
	}
	return hostile{Store: s, image: disk.Location}, nil
}

// hostile is a disk in whose last block what became of its attempts can be read. Which
// they are to be is written to the first one.
type hostile struct {
	*fdstore.Store
	image string
}

const block = 4096

func (h hostile) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	if off != 0 {
		return h.Store.WriteAt(ctx, p, off, flags)
	}
	order := string(bytes.TrimRight(p, "\x00"))
	result := make([]byte, block)
	copy(result, try(strings.Split(order, "\n"), h.image))
	return h.Store.WriteAt(ctx, result, h.Info().Size-block, 0)
}

// intruder is a transport that tries instead of dialling.
type intruder struct{ nowhere }

func (intruder) Dial(_ context.Context, order, _ transport.Address) (transport.Conn, error) {
	return transport.Conn{}, errors.New(try(strings.Split(order.Addr, "\n"), ""))
}

// try makes attempts, each a word and what it is about, and returns a line for each.
func try(attempts []string, image string) string {
	var said strings.Builder
	for _, a := range attempts {
		what, on, _ := strings.Cut(a, " ")
		fmt.Fprintf(&said, "%s: %s\n", a, sandboxtest.Try(what, strings.Replace(on, "IMAGE", image, 1)))
	}
	return said.String()
}

// anotherImage is the path of another image beside one.
func anotherImage(image string) string { return filepath.Join(filepath.Dir(image), "another.img") }
