// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"path/filepath"
	"slices"

	"github.com/flexnbd/flexnbd/core/bundle"
	"github.com/flexnbd/flexnbd/core/sandbox"
)

// Needs are what a plugin needs of the machine.
type Needs struct {
	Disk     bool // the file or device at its location
	Internet bool // sockets of the Internet's families
	Sockets  bool // to make sockets in the folders of its addresses
	System   bool // the system's libraries and programs, as what is no part of this binary does
}

// needsOf is what a bundle's manifest says.
func needsOf(m bundle.Manifest) *Needs {
	if len(m.Needs) == 0 {
		return nil
	}
	return &Needs{
		Disk:     slices.Contains(m.Needs, bundle.NeedDisk),
		Internet: slices.Contains(m.Needs, bundle.NeedInternet),
		Sockets:  slices.Contains(m.Needs, bundle.NeedSockets),
		System:   true,
	}
}

// Work is what a plugin is started for.
type Work struct {
	Disk     string   // the location, for a backend
	ReadOnly bool     // of the disk
	Folders  []string // of the sockets that a transport makes
	Lowered  bool     // as another user than flexnbd was started as
}

// Limits of what is confined.
const (
	// maxDescriptors leaves room for hundreds of connections that are handed over at
	// the same time. A transport does not keep them.
	maxDescriptors = 1024
	// maxMemory is some ten times what a stock plugin takes at the worst.
	maxMemory = 1 << 30
)

// Policy is what the plugin is confined to for its work; nil if it may do anything.
func (p Program) Policy(w Work) *sandbox.Policy {
	if p.needs == nil {
		return nil
	}
	policy := &sandbox.Policy{Internet: p.needs.Internet, Modes: p.needs.Sockets, Programs: p.needs.System}
	allow := func(access sandbox.Access, paths ...string) {
		for _, path := range paths {
			policy.Paths = append(policy.Paths, sandbox.Path{Path: path, Access: access})
		}
	}
	if p.needs.Disk {
		access := sandbox.Disk
		if w.ReadOnly {
			access = sandbox.DiskRead
		}
		allow(access, w.Disk)
		allow(sandbox.Read, "/sys/dev/block", "/sys/devices") // what a device is, and can do
	}
	if p.needs.Internet || p.needs.Sockets {
		allow(sandbox.Read, "/proc/sys/net/core/somaxconn") // how many connections may wait to be accepted
	}
	if p.needs.Sockets {
		allow(sandbox.Sockets, w.Folders...)
	}
	if p.needs.Internet {
		policy.Capabilities = append(policy.Capabilities, sandbox.NetBindService)
	}
	// A stock backend gives it up once its disk is open; of others nobody knows.
	if (p.needs.Disk || p.needs.Sockets) && (!p.needs.System || !w.Lowered) {
		policy.Capabilities = append(policy.Capabilities, sandbox.DACOverride)
	}
	if p.needs.System {
		allow(sandbox.Execute, filepath.Dir(p.exe))
		allow(sandbox.Execute, systemFolders...)
		allow(sandbox.Read, systemFiles...)
		allow(sandbox.Disk, "/dev/null", "/dev/zero")
		if p.needs.Internet {
			allow(sandbox.Read, namesFiles...)
		}
		return policy
	}
	// Stock plugins are known well enough for more.
	policy.Descriptors, policy.Memory = maxDescriptors, maxMemory
	return policy
}

// Where names are looked up, which the stock transport does not do.
var namesFiles = []string{"/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/services", "/etc/host.conf"}

// What programs are made of, and what the runtimes of many languages read.
var (
	systemFolders = []string{"/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin", "/usr"}
	systemFiles   = []string{
		"/dev/random", "/dev/urandom", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d",
		"/etc/localtime", "/etc/ssl", "/etc/ca-certificates", "/etc/pki", "/proc/self", "/sys/devices/system/cpu",
	}
)
