// SPDX-License-Identifier: GPL-3.0-or-later

package control

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

// answerWait bounds a Call whose context has no deadline. It is longer than
// the slowest verb, mirror, takes to find that its destination is silent.
const answerWait = 2 * time.Minute

// Call sends a request to the server with the control socket at path and
// returns its answer. An error means that there is none; one that the server
// reports itself is an answer with a Code. Without a deadline in ctx, it waits
// for two minutes.
func Call(ctx context.Context, path, verb string, args ...string) (Answer, error) {
	if err := checkPath(path); err != nil {
		return Answer{}, err
	}
	bytes, err := request{verb, args}.encode()
	if err != nil {
		return Answer{}, err
	}
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, answerWait)
		defer cancel()
	}
	answer, err := exchange(ctx, path, bytes)
	if err != nil {
		return Answer{}, explain(ctx, path, err)
	}
	return answer, nil
}

func exchange(ctx context.Context, path string, bytes []byte) (Answer, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socketfile.Addr(path).Name)
	if err != nil {
		return Answer{}, err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	// A server may refuse before it has read all, so that the Write fails and
	// there is an answer; and where there is none, reading says so too.
	_, _ = conn.Write(bytes)
	return readAnswer(conn)
}

// explain says what an error means and what to do about it.
func explain(ctx context.Context, path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("control socket %s does not exist: is the server running, with this --sock? %w", path, err)
	case errors.Is(err, syscall.ECONNREFUSED):
		if file, statErr := os.Stat(path); statErr == nil && file.Mode().Type() != fs.ModeSocket {
			return fmt.Errorf("control socket %s is no socket but something else of that name (%v): correct the path: %w", path, file.Mode(), err)
		}
		return fmt.Errorf("control socket %s: nobody is listening: its server has ended (the next one may use the path again): %w", path, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("control socket %s: not allowed: run this as the server's user or root: %w", path, err)
	case ctx.Err() == context.Canceled:
		return fmt.Errorf("control socket %s: given up before the server answered: %w", path, context.Canceled)
	case ctx.Err() != nil, errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("control socket %s: the server did not answer in time: is it stopped? %w", path, context.DeadlineExceeded)
	}
	return fmt.Errorf("control socket %s: %w", path, err)
}
