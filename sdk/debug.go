// SPDX-License-Identifier: Apache-2.0

package sdk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

// awaitHost waits, in a process that a person or a debugger has started, for a flexnbd
// that is told to use it, and makes this process what that flexnbd would have started.
// It prints what to tell it.
func awaitHost(d wire.Description, out io.Writer) (*os.File, error) {
	dir, err := os.MkdirTemp("", "flexnbd-debug-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	socket := filepath.Join(dir, "attach")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: socket})
	if err != nil {
		return nil, err
	}
	defer func() { _ = listener.Close() }()
	// Ctrl-C is how most waits end, and nothing is to be left behind.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer context.AfterFunc(ctx, func() { _ = listener.Close() })()
	plugin := d.Kind.String() + "-" + d.Name
	value, err := json.Marshal(map[string]string{plugin: socket})
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprintf(out, "Waiting for a flexnbd. Start one with this in its environment, as this user, and --%s %s:\n\n\t%s='%s'\n\n",
		d.Kind, d.Name, wire.EnvReattach, value)
	if err != nil {
		return nil, err
	}
	file, channel, err := wire.AwaitAttach(listener)
	if ctx.Err() != nil {
		return nil, errors.New("nobody came")
	}
	if err != nil {
		return nil, err
	}
	// For the handshake. Kept open: its end is this process's end for the stand-in.
	stdout.file, os.Stdout = file, file
	return channel, nil
}
