// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/flexnbd/flexnbd/core/host"
	"github.com/flexnbd/flexnbd/core/sandbox"
	"github.com/flexnbd/flexnbd/sdk/transport"
)

// plans are the plugins that this server may ever start, each with what it is confined
// to. A transport listens, and dials for a migration.
func (s *serving) plans() []host.Plan {
	plan := func(p host.Program, w host.Work) host.Plan {
		plan := host.Plan{Program: p, Policy: p.Policy(w)}
		if plan.Policy == nil {
			return plan // it is not ours, and does not say what it needs
		}
		plan.Capabilities = plan.Policy.Capabilities
		if s.options.NoSandbox {
			plan.Policy = nil
		}
		return plan
	}
	return []host.Plan{
		plan(s.backend, host.Work{Disk: s.disk.Location, ReadOnly: s.disk.ReadOnly, Lowered: s.user != nil}),
		plan(s.transport, host.Work{Folders: s.socketFolders(), Lowered: s.user != nil}),
	}
}

// socketFolders are those of the addresses that are paths.
func (s *serving) socketFolders() []string {
	var folders []string
	addresses := []transport.Address{s.at}
	if home := s.rebind(); home != nil {
		addresses = append(addresses, *home)
	}
	for _, a := range addresses {
		if strings.HasPrefix(a.Addr, "/") {
			folders = append(folders, filepath.Dir(a.Addr))
		}
	}
	return folders
}

// confine takes from this process what it needs no more, once all is open: root's
// rights, with --user, and what the sandbox takes. From here on plugins come from the
// launcher alone.
func (s *serving) confine() error {
	s.confined = true
	if s.records != nil && s.records.Place().StateDir {
		_ = s.records.Check() // makes the folder; who needs it later will tell why it is not there
	}
	if s.user != nil {
		if err := s.user.Become(); err != nil {
			return err
		}
		s.log.Info("became another user", "uid", s.user.UID, "gid", s.user.GID)
	}
	if s.options.NoSandbox {
		s.log.Warn("flexnbd and its plugins are not confined, as --no-sandbox says")
		return nil
	}
	report, err := sandbox.Enter(s.policy())
	if err != nil {
		return fmt.Errorf("%w; --no-sandbox serves without", err)
	}
	s.mu.Lock()
	s.sandbox = sandboxWords(report)
	s.mu.Unlock()
	s.tellSandbox(report)
	return nil
}

// policy is what this process may do while it serves.
func (s *serving) policy() sandbox.Policy {
	p := sandbox.Policy{
		Signals:  true,                                               // to end plugins
		Abstract: strings.HasPrefix(os.Getenv("NOTIFY_SOCKET"), "@"), // the service manager's
		Paths:    []sandbox.Path{{Path: s.host.Dir(), Access: sandbox.Folders}},
	}
	if s.user == nil { // as root: the folder with the records may be another user's
		p.Capabilities = []sandbox.Capability{sandbox.DACOverride, sandbox.FOwner}
	}
	if s.records != nil {
		p.Paths = append(p.Paths, sandbox.Path{Path: s.records.Place().Dir, Access: sandbox.Records})
	}
	return p
}

// tellSandbox logs what the kernel could do, and what for.
func (s *serving) tellSandbox(r sandbox.Report) {
	if r.Landlock == 0 {
		s.log.Warn("this kernel has no Landlock, or has it switched off: flexnbd and its plugins can open every file that their user can; Linux 5.13 has it, where lsm= names it")
	}
	if !r.Seccomp {
		s.log.Warn("this kernel has no seccomp, or flexnbd does not know this kind of machine: flexnbd and its plugins can make every system call that their user can")
	}
	plugin := func(p host.Plan) string {
		if p.Policy == nil {
			return "no"
		}
		return "yes"
	}
	plans := s.plans()
	s.log.Info("confined", "landlock_abi", r.Landlock, "seccomp", r.Seccomp,
		"backend", plugin(plans[0]), "transport", plugin(plans[1]))
}

// sandboxWords is the sandbox as status shows it.
func sandboxWords(r sandbox.Report) string {
	var has []string
	if r.Landlock > 0 {
		has = append(has, fmt.Sprintf("landlock-%d", r.Landlock))
	}
	if r.Seccomp {
		has = append(has, "seccomp")
	}
	if len(has) == 0 {
		return "none"
	}
	return strings.Join(has, ",")
}
