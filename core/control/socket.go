// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"fmt"

	"github.com/flexnbd/flexnbd/sdk/socketfile"
)

// mode lets in the server's user and root.
const mode = 0o600

// bind makes the socket at path.
func bind(path string) (*socketfile.Listener, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	socket, err := socketfile.Listen(context.Background(), path, mode)
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	return socket, nil
}

// checkPath refuses what the kernel would refuse with a bare EINVAL. Such a path
// is quoted: it may hold anything.
func checkPath(path string) error {
	if err := socketfile.Check(path); err != nil {
		return fmt.Errorf("control socket %q: %w", path, err)
	}
	return nil
}
