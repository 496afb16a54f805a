// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"context"
	"fmt"

	"github.com/flexnbd/flexnbd/core/client"
)

// idleConnections is how many connections do nothing.
const idleConnections = 200

// measureIdle compares the memory with many connections to that with none. Each
// has carried out a request, so that whatever it keeps is there.
func measureIdle(binary, lane string) (_ []row, err error) {
	s, _, err := startServer(binary, 1<<30, "--lane", lane)
	if err != nil {
		return nil, err
	}
	defer func() { err = firstError(err, s.stop()) }()
	before, err := s.memory()
	if err != nil {
		return nil, err
	}
	var clients []*client.Client
	defer func() {
		for _, c := range clients {
			err = firstError(err, c.Disconnect())
		}
	}()
	for range idleConnections {
		c, err := s.connect()
		if err != nil {
			return nil, err
		}
		clients = append(clients, c)
		var sink bytes.Buffer
		if err := c.ReadTo(context.Background(), &sink, 0, 64<<10); err != nil {
			return nil, err
		}
	}
	after, err := s.memory()
	if err != nil {
		return nil, err
	}
	return []row{
		{"memory of all processes, no connection", mebibytes(before), ""},
		{fmt.Sprintf("more with %d idle connections", idleConnections), mebibytes(after - before), "100 MiB"},
	}, nil
}

func firstError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}
