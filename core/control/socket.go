// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/flexnbd/flexnbd/sdk/socketfile"
)

// Socket is how a server's socket is made.
type Socket struct {
	Mode fs.FileMode // who may write to it may control the server
	// UID and GID own it; -1 leaves what the process has.
	UID, GID int
	// LeavePath leaves the path where it is when the server closes; somebody else
	// removes it.
	LeavePath bool
}

// Private lets in the server's user and root.
var Private = Socket{Mode: 0o600, UID: -1, GID: -1}

// bind makes the socket at path. Nobody but its maker can use it before it is as it
// shall be.
func (s Socket) bind(path string) (_ *socketfile.Listener, err error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("control socket %s: %w", path, err)
		}
	}()
	l, err := socketfile.Listen(context.Background(), path, Private.Mode)
	if err != nil {
		return nil, err
	}
	if err := l.Give(s.UID, s.GID, s.Mode); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if s.LeavePath {
		l.LeavePath()
	}
	return l, nil
}

// checkPath refuses what the kernel would refuse with a bare EINVAL. Such a path
// is quoted: it may hold anything.
func checkPath(path string) error {
	if err := socketfile.Check(path); err != nil {
		return fmt.Errorf("control socket %q: %w", path, err)
	}
	return nil
}
