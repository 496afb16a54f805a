// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/flexnbd/flexnbd/core/client"
)

// server is a flexnbd that serves a sparse image.
type server struct {
	command *exec.Cmd
	address string
	dir     string
}

// patience bounds every wait for something that should take a moment.
const patience = 20 * time.Second

// startServer starts a server and returns when a client has finished its
// handshake with it, and how long that took from the start of the process.
func startServer(binary string, size int64, options ...string) (*server, time.Duration, error) {
	dir, err := os.MkdirTemp("", "flexnbd-bench")
	if err != nil {
		return nil, 0, err
	}
	image := filepath.Join(dir, "disk.img")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, size)); err != nil {
		return nil, 0, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, 0, err
	}
	_, port, _ := net.SplitHostPort(address)
	s := &server{address: address, dir: dir}
	s.command = exec.Command(binary, "serve", "--addr", "127.0.0.1", "--port", port, "--file", image)
	s.command.Args = append(s.command.Args, options...)
	s.command.Stderr = os.Stderr
	begin := time.Now()
	if err := s.command.Start(); err != nil {
		return nil, 0, err
	}
	if err := s.untilReady(); err != nil {
		return nil, 0, errors.Join(err, s.stop())
	}
	return s, time.Since(begin), nil
}

// freeAddress finds a port that was free a moment ago.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func (s *server) untilReady() error {
	deadline := time.Now().Add(patience)
	for {
		c, err := s.connect()
		if err == nil {
			return c.Disconnect()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the server is not ready after %v: %w", patience, err)
		}
		time.Sleep(time.Millisecond / 2) // between attempts; nothing tells when
	}
}

// connect returns a client that has finished its handshake.
func (s *server) connect() (*client.Client, error) {
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		return nil, err
	}
	return client.Connect(context.Background(), conn, client.Options{})
}

func (s *server) stop() error {
	defer func() { _ = os.RemoveAll(s.dir) }()
	if err := s.command.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return s.command.Wait()
}
