// SPDX-License-Identifier: GPL-3.0-or-later

package unixsocket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/flexnbd/flexnbd/sdk/socketfile"
)

const (
	firstPause = time.Millisecond
	longPause  = 100 * time.Millisecond
)

// dial connects, and tries again while the queue is full: connect(2) on a socket
// that does not block answers EAGAIN then, and there is nothing to wait on.
func dial(ctx context.Context, path string) (*net.UnixConn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		socket, err := net.DialUnix("unix", nil, socketfile.Addr(path))
		if err == nil {
			return socket, nil
		}
		if !errors.Is(err, syscall.EAGAIN) {
			return nil, explainDial(path, err)
		}
		timer.Reset(pause)
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("the server does not take connections, its queue is full: is it stopped? %w", ctx.Err())
		case <-timer.C:
		}
	}
}

// explainDial says what the kernel's errno means here and what to do about it.
func explainDial(path string, err error) error {
	var op *net.OpError // which names the path again
	if errors.As(err, &op) {
		err = op.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("there is no such socket; check the path, and that the server runs: %w", err)
	case errors.Is(err, syscall.ECONNREFUSED):
		if file, statErr := os.Stat(path); statErr == nil && file.Mode().Type() != fs.ModeSocket {
			return fmt.Errorf("that is no socket (%v); correct the path: %w", file.Mode(), err)
		}
		return fmt.Errorf("nobody listens at that socket; its server has ended: %w", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("this user may not connect; see the mode and group of the socket and of its directories: %w", err)
	case errors.Is(err, syscall.EPROTOTYPE):
		return fmt.Errorf("that is a socket of another kind, not a stream: %w", err)
	}
	return err
}
