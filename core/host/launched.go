// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/core/launch"
	"github.com/flexnbd/flexnbd/core/privilege"
	"github.com/flexnbd/flexnbd/core/sandbox"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// Plan is a program that a host can start although its own process is confined.
type Plan struct {
	Program Program
	// Policy is what the plugin is confined to; nil: to nothing. See [Program.Policy].
	Policy *sandbox.Policy
	// Capabilities are what it keeps of root's rights where it runs as another user.
	Capabilities []sandbox.Capability
}

// Launching is how a host starts plugins for a process that confines itself.
type Launching struct {
	Plans []Plan
	// User, if not nil, is who the plugins run as, and this process is about to become.
	User *privilege.User
	// Socket is the path of a socket of this process's. It is removed when nobody has it
	// open any more, which this process may not be allowed to do then.
	Socket string
}

// NewLaunching makes a host that starts these programs, and no others, through a
// launcher: a process outside of whatever this one confines itself to later.
func NewLaunching(log hclog.Logger, l Launching) (_ *Host, err error) {
	h, err := makeHost(log, l.User)
	if err != nil {
		return nil, err
	}
	o := launch.Options{
		Keys:         []string{wire.Handshake.MagicCookieKey, wire.EnvLogLevel, "PLUGIN_"},
		SocketDirs:   h.dir.path,
		SocketDirKey: socketDirKey,
		Socket:       l.Socket,
	}
	env := append(environment(), descriptorChannel)
	if l.User != nil {
		env = slices.DeleteFunc(env, func(pair string) bool {
			key, _, _ := strings.Cut(pair, "=")
			return key == "HOME" || key == "USER" || key == "LOGNAME"
		})
		env = append(env, l.User.Environment()...)
	}
	for _, p := range l.Plans {
		plan := launch.Plan{
			Name: p.Program.Kind.String() + "-" + p.Program.Name, Kind: p.Program.Kind.String(),
			Exe: p.Program.exe, Bundle: p.Program.Bundle, Args: p.Program.args,
			Env: env, Policy: p.Policy, User: l.User, Capabilities: p.Capabilities,
		}
		if plan.Exe == selfExe {
			plan.Exe = ""
		}
		o.Plans = append(o.Plans, plan)
		h.planned = append(h.planned, p.Program)
	}
	if h.launcher, err = launch.New(o); err != nil {
		return nil, errors.Join(err, h.dir.remove())
	}
	return h, nil
}

// socketDirKey is the variable by which go-plugin tells a plugin where to make its
// socket.
const socketDirKey = "PLUGIN_UNIX_SOCKET_DIR"

// ServeLauncher is the launcher's main.
func ServeLauncher() error {
	return launch.Serve(func(p launch.Plan) (*os.File, error) {
		program := Program{Name: p.Name, Bundle: p.Bundle}
		for _, kind := range []wire.Kind{wire.KindBackend, wire.KindTransport} {
			if p.Kind == kind.String() {
				program.Kind = kind
				program.Name = p.Name[len(p.Kind)+1:]
			}
		}
		return program.executable()
	}, func(socketDirs string) { _ = removeRunDir(socketDirs) })
}

// Dir is the private folder with the plugins' sockets.
func (h *Host) Dir() string { return h.dir.path }

// LauncherEnded is closed when plugins can't be started any more; nil without a
// launcher.
func (h *Host) LauncherEnded() <-chan struct{} {
	if h.launcher == nil {
		return nil
	}
	return h.launcher.Ended()
}

// LauncherPID is the launcher's process number, or 0.
func (h *Host) LauncherPID() int {
	if h.launcher == nil {
		return 0
	}
	return h.launcher.PID()
}

// plan finds the program among those that the launcher can start.
func (h *Host) plan(p Program) (Program, error) {
	if h.launcher == nil {
		return p, nil
	}
	p.plan = slices.IndexFunc(h.planned, func(q Program) bool {
		return p.Kind == q.Kind && p.Name == q.Name && p.Path == q.Path && p.Bundle == q.Bundle && slices.Equal(p.args, q.args)
	})
	if p.plan < 0 {
		return p, fmt.Errorf("%s plugin %s (%s): the launcher has no plan for it, which is a fault in flexnbd", p.Kind, p.Name, p.Path)
	}
	return p, nil
}
