// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/sandbox"
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
		err := mischief[what](on, image)
		text := "done"
		if errno := syscall.Errno(0); errors.As(err, &errno) {
			text = errno.Error()
		} else if err != nil {
			text = err.Error()
		}
		fmt.Fprintf(&said, "%s: %s\n", a, text)
	}
	return said.String()
}

var mischief = map[string]func(on, image string) error{
	"read":    func(path, _ string) error { _, err := os.ReadFile(path); return err },
	"list":    func(path, _ string) error { _, err := os.ReadDir(path); return err },
	"write":   func(path, _ string) error { return os.WriteFile(path, []byte("x"), 0o600) },
	"remove":  func(path, _ string) error { return os.Remove(path) },
	"link":    func(path, image string) error { return os.Link(image, path) },
	"chmod":   func(path, _ string) error { return os.Chmod(path, 0o777) },
	"shorten": func(_, image string) error { return os.Truncate(image, 1) },
	"again":   func(_, image string) error { _, err := os.ReadFile(image); return err },
	"exec":    func(path, _ string) error { return exec.Command(path).Run() },
	"become":  func(path, _ string) error { return syscall.Exec(path, []string{path}, nil) },
	"connect": func(address, _ string) error { return hangUp(net.Dial("tcp", address)) },
	"listen":  func(address, _ string) error { return hangUp(net.Listen("tcp", address)) },
	"datagram": func(address, _ string) error {
		return hangUp(net.Dial("udp", address))
	},
	"kill":        func(pid, _ string) error { return unix.Kill(decimal(pid), unix.SIGKILL) },
	"trace":       func(pid, _ string) error { return unix.PtraceSeize(decimal(pid)) },
	"memoryOf":    func(pid, _ string) error { _, err := os.OpenFile("/proc/"+pid+"/mem", os.O_RDWR, 0); return err },
	"descriptors": exhaustDescriptors,
	"memory":      exhaustMemory,
}

func hangUp[C interface{ Close() error }](c C, err error) error {
	if err != nil {
		return err
	}
	return c.Close()
}

func decimal(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

// exhaustDescriptors opens descriptors until there are no more, then gives them back,
// or nobody would hear of it.
func exhaustDescriptors(string, string) error {
	var fds []int
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}()
	for range 1 << 20 {
		fd, err := unix.Dup(0)
		if err != nil {
			return fmt.Errorf("%w after some", err)
		}
		fds = append(fds, fd)
	}
	return nil
}

// exhaustMemory takes memory until there is none, which ends a program in Go.
func exhaustMemory(string, string) error {
	var all [][]byte
	for range 1 << 10 {
		piece := make([]byte, 64<<20)
		for i := 0; i < len(piece); i += 4096 {
			piece[i] = 1
		}
		all = append(all, piece)
	}
	return fmt.Errorf("got %d pieces", len(all))
}

// anotherImage is the path of another image beside one.
func anotherImage(image string) string { return filepath.Join(filepath.Dir(image), "another.img") }
