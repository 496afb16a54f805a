// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"

	"github.com/flexnbd/flexnbd/core/client"
)

// The load: connections that each have one large request in flight, several
// times over.
const (
	payloadConnections = 16
	payloadRequest     = 32 << 20
	payloadRounds      = 8
)

// measurePayload looks at the memory while every connection writes, then reads,
// large requests.
func measurePayload(binary, lane string) (_ []row, err error) {
	s, _, err := startServer(binary, payloadConnections*payloadRequest, "--lane", lane)
	if err != nil {
		return nil, err
	}
	defer func() { err = firstError(err, s.stop()) }()
	var rows []row
	for _, direction := range []struct {
		name string
		move func(c *client.Client, off uint64) error
	}{
		{"write", func(c *client.Client, off uint64) error {
			// Random, so that no part of it is zeroes and left out.
			noise := rand.NewChaCha8([32]byte{byte(off >> 25)})
			return c.WriteFrom(context.Background(), noise, off, payloadRequest)
		}},
		{"read", func(c *client.Client, off uint64) error {
			return c.ReadTo(context.Background(), io.Discard, off, payloadRequest)
		}},
	} {
		most, err := s.peakDuring(func() error { return s.everyConnection(direction.move) })
		if err != nil {
			return nil, err
		}
		what := fmt.Sprintf("peak of all processes, %d connections x %d MiB %ss", payloadConnections, payloadRequest>>20, direction.name)
		rows = append(rows, row{what, mebibytes(most), "256 MiB"})
	}
	return rows, nil
}

// everyConnection calls move on each of its own connections, several times.
func (s *server) everyConnection(move func(c *client.Client, off uint64) error) error {
	errs := make([]error, payloadConnections)
	var movers sync.WaitGroup
	for i := range payloadConnections {
		movers.Go(func() {
			c, err := s.connect()
			if err != nil {
				errs[i] = err
				return
			}
			for range payloadRounds {
				if errs[i] = move(c, uint64(i)*payloadRequest); errs[i] != nil {
					_ = c.Close()
					return
				}
			}
			errs[i] = c.Disconnect()
		})
	}
	movers.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
