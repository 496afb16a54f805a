// SPDX-License-Identifier: Apache-2.0

package sdk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

// StandIn is what a process does that was started in place of a plugin which waits at
// socket: it makes that one the plugin, and ends with it. It works with what a plugin is
// started with.
func StandIn(socket string) error {
	if stdout.file == nil {
		return errors.New("flexnbd starts this by itself, in place of a plugin that waits under a debugger")
	}
	fd, err := strconv.Atoi(os.Getenv(wire.EnvDescriptorChannel))
	if err != nil {
		return fmt.Errorf("%s: %w", wire.EnvDescriptorChannel, err)
	}
	outliveSignals()
	channel := os.NewFile(uintptr(fd), "descriptor-channel")
	conn, err := wire.Attach(socket, os.Environ(), channel)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := channel.Close(); err != nil { // the plugin has its own
		return err
	}
	_, err = io.Copy(stdout.file, conn)
	return err
}
