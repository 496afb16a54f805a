// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"bytes"
	"net"
	"strconv"
	"testing"
)

// command is the command line of `flexnbd read` or `write`.
func (s *server) command(verb string, off, n int64) []string {
	where := []string{"--transport", "unix", "--addr", s.addr}
	if s.in.network != "unix" {
		host, port, _ := net.SplitHostPort(s.addr)
		where = []string{"--addr", host, "--port", port}
	}
	return append([]string{verb, "--from", strconv.FormatInt(off, 10), "--size", strconv.FormatInt(n, 10)}, where...)
}

// write writes with `flexnbd write`.
func (s *server) write(t *testing.T, p []byte, off int64) {
	t.Helper()
	mustFeed(t, bytes.NewReader(p), programs.flexnbd, s.command("write", off, int64(len(p)))...)
}

// read reads with `flexnbd read`.
func (s *server) read(t *testing.T, off int64, n int) []byte {
	t.Helper()
	text := must(t, programs.flexnbd, s.command("read", off, int64(n))...)
	if len(text) != n {
		t.Fatalf("read printed %d bytes, want %d", len(text), n)
	}
	return []byte(text)
}
