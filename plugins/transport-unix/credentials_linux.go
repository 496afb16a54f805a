// SPDX-License-Identifier: GPL-3.0-or-later

package unixsocket

import (
	"net"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/transport"
)

// credentials returns what the kernel knows of the process at the other end: of
// an accepted socket the one that connected, of a dialled one the one that
// listens. Should the kernel say nothing, so does this, and a peer without
// credentials is let in by no entry of an access list.
func credentials(socket *net.UnixConn) *transport.Cred {
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil
	}
	var cred *unix.Ucred
	var failure error
	err = raw.Control(func(fd uintptr) {
		cred, failure = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil || failure != nil {
		return nil
	}
	return &transport.Cred{PID: cred.Pid, UID: cred.Uid, GID: cred.Gid}
}
