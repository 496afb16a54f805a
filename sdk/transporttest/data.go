// SPDX-License-Identifier: Apache-2.0

package transporttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"

	"github.com/flexnbd/flexnbd/sdk/transport"
)

const (
	// bulk is how many bytes go in each direction when data is what a
	// clause is about; more than a socket buffers by default.
	bulk = 4 << 20

	// last is how many bytes are sent before a half-close: enough that most
	// are still under way then.
	last = 1 << 20
)

// bytesFlowBothWays: all bytes arrive, in order, in both directions at once.
func bytesFlowBothWays(ctx context.Context, t *trial) error {
	p, err := t.connect(ctx, transport.Address{})
	if err != nil {
		return err
	}
	return t.exchange(p)
}

// exchange sends bulk bytes in each direction at once.
func (t *trial) exchange(p pair) error {
	dialled, accepted := p.dialled.Socket, p.accepted.Socket
	there, back := noise(1, bulk), noise(2, bulk)
	steps := []*call[struct{}]{
		t.work("the dialled end's Write", func() error { return write(dialled, there) }),
		t.work("the accepted end's Write", func() error { return write(accepted, back) }),
		t.work("the accepted end's Read", func() error { return expect(accepted, there) }),
		t.work("the dialled end's Read", func() error { return expect(dialled, back) }),
	}
	for _, step := range steps {
		if _, err := step.wait(); err != nil {
			return err
		}
	}
	return nil
}

// halfCloseReadsAsEndOfFile: when one end says that it has no more to send,
// the other reads everything and then io.EOF, and can still answer. NBD
// connections are closed like that, so that the last replies are not lost.
func halfCloseReadsAsEndOfFile(ctx context.Context, t *trial) error {
	l, err := t.listen(ctx, t.Listen)
	if err != nil {
		return err
	}
	for _, dialledFirst := range []bool{true, false} {
		p, err := t.connectTo(ctx, l, transport.Address{})
		if err != nil {
			return err
		}
		first, second := p.dialled.Socket, p.accepted.Socket
		if !dialledFirst {
			first, second = second, first
		}
		if err := t.finish(first, second, noise(3, last)); err != nil {
			return fmt.Errorf("the end that closes first (the dialled one: %t): %w", dialledFirst, err)
		}
		if err := t.finish(second, first, noise(4, last)); err != nil {
			return fmt.Errorf("the end that answers (the dialled one: %t): %w", !dialledFirst, err)
		}
	}
	return nil
}

// finish sends data and half-closes; the other end must read just that.
func (t *trial) finish(from, to net.Conn, data []byte) error {
	sending := t.work("Write and CloseWrite", func() error {
		if err := write(from, data); err != nil {
			return err
		}
		half, ok := from.(interface{ CloseWrite() error })
		if !ok {
			return fmt.Errorf("the Socket is a %T, which has no CloseWrite", from)
		}
		return half.CloseWrite()
	})
	receiving := t.work("Read to the end of file", func() error {
		if err := expect(to, data); err != nil {
			return err
		}
		if n, err := to.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			return fmt.Errorf("after the last byte Read returns %d, %v; it must return 0, io.EOF", n, err)
		}
		return nil
	})
	if _, err := sending.wait(); err != nil {
		return err
	}
	_, err := receiving.wait()
	return err
}

// work begins something that has no result.
func (t *trial) work(what string, f func() error) *call[struct{}] {
	return begin(t, what, func() (struct{}, error) { return struct{}{}, f() })
}

// noise returns n bytes, the same ones for the same seed.
func noise(seed byte, n int) []byte {
	data := make([]byte, n)
	// ChaCha8's Read never fails.
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(data)
	return data
}

func write(to net.Conn, data []byte) error {
	n, err := to.Write(data)
	if err == nil && n != len(data) {
		err = io.ErrShortWrite
	}
	return err
}

func expect(from net.Conn, want []byte) error {
	got := make([]byte, len(want))
	if n, err := io.ReadFull(from, got); err != nil {
		return fmt.Errorf("%d of %d bytes have arrived: %w", n, len(want), err)
	}
	if bytes.Equal(got, want) {
		return nil
	}
	for i := range want {
		if got[i] != want[i] {
			return fmt.Errorf("byte %d of %d was sent as %#x and arrives as %#x", i, len(want), want[i], got[i])
		}
	}
	return nil
}
