// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A plugin that runs under a debugger is not started by the host. It waits on a Unix
// socket for a stand-in, which the host starts in its place. The stand-in sends it what
// the host gave to a plugin: variables and the descriptor channel. From then on the
// plugin serves as if the host had started it, with the connection as its standard
// output; the stand-in passes its handshake on, and ends with it.

// EnvReattach holds the plugins that wait for a host, for the host: a JSON object from
// "backend-NAME" or "transport-NAME" to the path of the plugin's socket.
const EnvReattach = "FLEXNBD_REATTACH_PLUGINS"

// maxAttach bounds the message of a stand-in, in bytes.
const maxAttach = 64 << 10

// attachedVariables are the ones that a waiting plugin takes over.
func attachedVariable(name string) bool {
	return strings.HasPrefix(name, "PLUGIN_") || name == EnvLogLevel
}

// Attach connects to a waiting plugin on behalf of a host's plugin process, with its
// environment and its descriptor channel.
func Attach(socket string, environment []string, channel *os.File) (*net.UnixConn, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: socket})
	if err != nil {
		return nil, fmt.Errorf("no plugin waits at %s: %w; start it with --debug, and copy what it prints", socket, err)
	}
	if err := attach(conn, environment, channel); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("attaching to the plugin at %s: %w", socket, err)
	}
	return conn, nil
}

func attach(conn *net.UnixConn, environment []string, channel *os.File) error {
	if err := ownPeer(conn); err != nil {
		return err
	}
	variables := map[string]string{}
	for _, pair := range environment {
		if name, value, _ := strings.Cut(pair, "="); attachedVariable(name) {
			variables[name] = value
		}
	}
	message, err := json.Marshal(variables)
	if err != nil {
		return err
	}
	_, _, err = conn.WriteMsgUnix(message, unix.UnixRights(int(channel.Fd())), nil)
	return err
}

// AwaitAttach waits at a listener for a host's stand-in, sets the variables that it
// sends, and returns what becomes the standard output, and the descriptor channel.
func AwaitAttach(listener *net.UnixListener) (stdout, channel *os.File, err error) {
	conn, err := listener.AcceptUnix()
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = conn.Close() }() // stdout is a duplicate
	if err := ownPeer(conn); err != nil {
		return nil, nil, err
	}
	if channel, err = receiveAttach(conn); err != nil {
		return nil, nil, fmt.Errorf("whoever connected is no flexnbd: %w", err)
	}
	if stdout, err = conn.File(); err != nil {
		return nil, nil, errors.Join(err, channel.Close())
	}
	return stdout, channel, nil
}

func receiveAttach(conn *net.UnixConn) (*os.File, error) {
	message, rights := make([]byte, maxAttach), make([]byte, unix.CmsgSpace(4))
	n, m, _, _, err := conn.ReadMsgUnix(message, rights)
	if err != nil {
		return nil, err
	}
	controls, err := unix.ParseSocketControlMessage(rights[:m])
	if err != nil || len(controls) != 1 {
		return nil, fmt.Errorf("it sent no descriptor channel (%w)", err)
	}
	fds, err := unix.ParseUnixRights(&controls[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("it sent %d descriptors, not one (%w)", len(fds), err)
	}
	unix.CloseOnExec(fds[0])
	channel := os.NewFile(uintptr(fds[0]), "descriptor-channel")
	var variables map[string]string
	if err := json.Unmarshal(message[:n], &variables); err != nil {
		return nil, errors.Join(fmt.Errorf("its variables: %w", err), channel.Close())
	}
	for name, value := range variables {
		if attachedVariable(name) {
			if err := os.Setenv(name, value); err != nil {
				return nil, errors.Join(err, channel.Close())
			}
		}
	}
	return channel, nil
}

// ownPeer returns nil if the other end of conn belongs to root or to this user.
func ownPeer(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var peerErr error
	if err := raw.Control(func(fd uintptr) {
		peer, peerErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	switch {
	case peerErr != nil:
		return peerErr
	case peer.Uid != 0 && int(peer.Uid) != os.Geteuid():
		return fmt.Errorf("the other end belongs to user %d: %w", peer.Uid, unix.EPERM)
	}
	return nil
}
