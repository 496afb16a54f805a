// SPDX-License-Identifier: Apache-2.0

package socketfile

import (
	"errors"
	"fmt"
	"net"
	"strings"
)

// MaxPath is the longest path, in bytes: what fits sun_path of sockaddr_un
// beside its NUL.
const MaxPath = 107

// Check refuses a path that no socket can have: an empty one, one with a NUL
// byte in it, and one of more than [MaxPath] bytes.
func Check(path string) error {
	switch {
	case path == "":
		return errors.New("the path is empty")
	case strings.IndexByte(path, 0) >= 0:
		return errors.New("the path holds a NUL byte")
	case len(name(path)) > MaxPath:
		return fmt.Errorf("the path has %d bytes, and the kernel takes %d at most: choose a shorter one", len(path), MaxPath)
	}
	return nil
}

// Addr is path as package net must be told it.
func Addr(path string) *net.UnixAddr {
	return &net.UnixAddr{Net: "unix", Name: name(path)}
}

// name keeps a leading @ from meaning a name outside the file system.
func name(path string) string {
	if strings.HasPrefix(path, "@") {
		return "./" + path
	}
	return path
}
