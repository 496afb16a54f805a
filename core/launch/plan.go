// SPDX-License-Identifier: GPL-3.0-or-later

package launch

import (
	"github.com/flexnbd/flexnbd/core/privilege"
	"github.com/flexnbd/flexnbd/core/sandbox"
)

// Plan is a process that can be started, again and again.
type Plan struct {
	// Name is shown by ps, and in errors.
	Name string `json:"name"`
	// Exe is what is executed, a path; empty for this very binary.
	Exe string `json:"exe,omitempty"`
	// Bundle is the folder of the bundle that it is in, if any. The caller of [Serve]
	// knows how such a program is opened.
	Bundle string `json:"bundle,omitempty"`
	// Kind is for the bundle.
	Kind string `json:"kind,omitempty"`
	// Args are its arguments, from Args[0] on.
	Args []string `json:"args"`
	// Env are its variables, besides those that come with an order.
	Env []string `json:"env,omitempty"`
	// Policy is what it is confined to; nil: to nothing.
	Policy *sandbox.Policy `json:"policy,omitempty"`
	// User is who it runs as; nil: as the launcher.
	User *privilege.User `json:"user,omitempty"`
	// Capabilities are what it keeps of root's rights as another user, if the launcher
	// has them. A policy has to keep them too.
	Capabilities []sandbox.Capability `json:"capabilities,omitempty"`
}

// config is the first message to the launcher.
type config struct {
	Plans []Plan `json:"plans"`
	// SocketDirs is the folder in which the folders of processes' sockets are.
	SocketDirs string `json:"socket_dirs"`
	// Socket is a socket that the server may leave behind.
	Socket string `json:"socket,omitempty"`
	// Keys are the variables that an order may set.
	Keys []string `json:"keys"`
	// SocketDirKey is that of them with the folder of the process's socket.
	SocketDirKey string `json:"socket_dir_key"`
}

// order is each message after it. With it come the descriptors that [Request] names.
type order struct {
	Plan int      `json:"plan"`
	Env  []string `json:"env"`
}

// child is what the launched process is told.
type child struct {
	Name   string          `json:"name"`
	Args   []string        `json:"args"`
	Env    []string        `json:"env,omitempty"` // for exec
	Exe    string          `json:"exe,omitempty"` // empty: go on
	Opened bool            `json:"opened,omitempty"`
	Policy *sandbox.Policy `json:"policy,omitempty"`
	Other  bool            `json:"other,omitempty"` // it runs as another user
}

// Verbs that this binary is started with.
const (
	launcherVerb = "launch-plugins"
	childVerb    = "run-launched"
)

// Descriptors of a child, besides the standard ones. The first is the program's own.
const (
	fdChannel = 3
	fdReport  = 4
	fdSpec    = 5
	fdExe     = 6
)

const maxMessage = 128 << 10 // bytes
