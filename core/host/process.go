// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	gorunner "github.com/hashicorp/go-plugin/runner"

	"github.com/flexnbd/flexnbd/core/launch"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// Process is a plugin that runs, or ran. All methods may be called from many
// goroutines.
type Process struct {
	program     Program
	description wire.Description
	runner      *runner
	client      *plugin.Client
	met         bool // go-plugin has a connection to it
	wire        *wire.Client
	descriptors *wire.DescriptorChannel
	log         hclog.Logger

	socketDir string        // what go-plugin made for its socket
	watched   chan struct{} // closed when the watcher has seen the end
	ending    sync.Once
	ended     error // what end returned
}

// Times.
const (
	killWait = 5 * time.Second // for the kernel to end it
	// lastMoment is for a process that is ending to be reaped: its line breaks a
	// little earlier, and the log is to say how it ended.
	lastMoment = 250 * time.Millisecond
)

// Times that tests change.
var (
	stopWait     = 2 * time.Second  // for the plugin to end by itself
	startWait    = 10 * time.Second // for the handshake line
	describeWait = 5 * time.Second  // from there to the answer to the first call
)

// start starts program and makes sure that it is the plugin it should be.
func start(ctx context.Context, program Program, launcher *launch.Launcher, socketDir string, log hclog.Logger) (_ *Process, err error) {
	descriptors, child, err := wire.DescriptorPair()
	if err != nil {
		return nil, err
	}
	r, err := newRunner(program, child, launcher, log)
	if err != nil {
		err = fmt.Errorf("%s plugin %s (%s): %w", program.Kind, program.Name, program.Path, err)
		return nil, errors.Join(err, child.Close(), descriptors.Close())
	}
	p := &Process{program: program, descriptors: descriptors, runner: r, log: log, watched: make(chan struct{})}
	close(p.watched) // nothing to wait for until watch is started
	defer func() {
		if err != nil {
			err = errors.Join(err, p.end())
			err = fmt.Errorf("%s plugin %s (%s): %w", program.Kind, program.Name, program.Path, err)
		}
	}()

	dial := wire.DialOptions()
	if traced() {
		dial = append(dial, trace(log, program)...)
	}
	p.client = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  wire.Handshake,
		VersionedPlugins: wire.VersionedPlugins(descriptors),
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		StartTimeout:     startWait,
		SkipHostEnv:      true,
		Logger:           hclog.NewNullLogger(), // what goes wrong, our errors say
		SyncStdout:       printed{r, hclog.Info},
		SyncStderr:       printed{r, hclog.Warn},
		GRPCDialOptions:  dial,
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: socketDir},
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, dir string) (gorunner.Runner, error) {
			p.socketDir = dir
			if err := sameOwner(dir, socketDir); err != nil {
				return nil, err
			}
			// Of go-plugin's own command only the variables matter.
			r.env = append(cmd.Env, wire.EnvLogLevel+"="+log.GetLevel().String())
			return r, nil
		},
	})
	if err := p.handshake(ctx); err != nil {
		return nil, err
	}
	p.watched = make(chan struct{})
	go p.watch()
	return p, nil
}

// handshake starts the process and asks it what it is. A context that ends
// kills the process, which ends every wait for it.
func (p *Process) handshake(ctx context.Context) error {
	defer p.runner.settle()
	unwatch := context.AfterFunc(ctx, func() { _ = p.runner.Kill(ctx) })
	begin := time.Now()
	_, err := p.client.Start()
	took := time.Since(begin)
	if !unwatch() || err != nil {
		return p.diagnose(ctx, took, err)
	}
	describing, cancel := context.WithTimeout(ctx, describeWait)
	defer cancel()
	unwatch = context.AfterFunc(describing, func() { _ = p.runner.Kill(ctx) })
	err = p.describe(describing)
	if !unwatch() || err != nil {
		return p.diagnoseDescribe(ctx, describing, err)
	}
	if p.description.Kind != p.program.Kind {
		return fmt.Errorf("is a %s, not a %s; use --%s for it", p.description.Kind, p.program.Kind, p.description.Kind)
	}
	return nil
}

// describe makes the client and its first call.
func (p *Process) describe(ctx context.Context) error {
	protocol, err := p.client.Client()
	if err != nil {
		return err
	}
	p.met = true
	if p.wire, err = wire.Dispense(protocol); err != nil {
		return err
	}
	p.description, err = p.wire.Describe(ctx)
	return err
}

// watch says so when the plugin ends without having been asked to.
func (p *Process) watch() {
	defer close(p.watched)
	<-p.runner.exited
	if p.runner.unexpected {
		p.log.Error("plugin ended unexpectedly", "kind", p.program.Kind, "plugin", p.program.Name, "plugin_pid", p.PID(), "how", exitText(p.runner.exit))
	}
}

// Description is what the plugin says about itself.
func (p *Process) Description() wire.Description { return p.description }

// Path is where the plugin's binary is, or "builtin".
func (p *Process) Path() string { return p.program.Path }

// PID is the process number.
func (p *Process) PID() int { return int(p.runner.pid.Load()) }

// Exited is closed when the process has ended and has been reaped.
func (p *Process) Exited() <-chan struct{} { return p.runner.exited }

// Stalled is closed when the process has been stopped by a signal.
func (p *Process) Stalled() <-chan struct{} { return p.runner.stalled }

// OpenDisk opens a disk. The store's errors name the plugin. See [Disk] for a
// store that outlives this process.
func (p *Process) OpenDisk(ctx context.Context, disk wire.Disk) (store.Store, error) {
	var err error
	if disk.Options, err = p.description.ParseOptions(disk.Options); err != nil {
		return nil, p.named(err)
	}
	s, err := p.wire.OpenDisk(ctx, disk)
	if err != nil {
		return nil, p.named(err)
	}
	return &namedStore{Store: s, process: p}, nil
}

// Transport returns the transport. Its errors name the plugin.
func (p *Process) Transport() transport.Transport {
	return &namedTransport{Transport: p.wire.Transport(), process: p}
}

// named adds which plugin an error came from: the one place that does.
func (p *Process) named(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%s %s: %w", p.program.Kind, p.program.Name, err)
}

// Stop ends the process: it closes the descriptor channel, at which a plugin
// exits, and kills what is still there after two seconds or when ctx ends, or at
// once what was stopped by a signal. Calls under way fail with
// wire.ErrPluginGone. It returns once the process has been reaped. Further calls
// wait for the first one and return the same.
func (p *Process) Stop(ctx context.Context) error {
	p.runner.expectEnd()
	_ = p.descriptors.Close()
	select {
	case <-p.runner.exited:
	case <-p.runner.stalled: // it can't end by itself
	case <-time.After(stopWait):
		p.log.Warn("plugin does not end by itself and is killed", "kind", p.program.Kind, "plugin", p.program.Name, "plugin_pid", p.PID())
	case <-ctx.Done():
	}
	return p.end()
}

// stopSoon is Stop for a process that has been silent for too long: it may be at
// fault, or who it talks to. A healthy one ends within lastMoment.
func (p *Process) stopSoon() error {
	ctx, cancel := context.WithTimeout(context.Background(), lastMoment)
	defer cancel()
	err := p.Stop(ctx)
	if ctx.Err() != nil {
		p.log.Error("plugin did not answer in time, did not end by itself and was killed", "kind", p.program.Kind, "plugin", p.program.Name, "plugin_pid", p.PID())
	}
	return err
}

// stopNow is Stop that leaves the process no time to end by itself.
func (p *Process) stopNow() error { return p.end() }

// endLost is stopNow for a process that was lost, see awaitLoss, or whose line
// broke. The latter is mostly about to be reaped.
func (p *Process) endLost() error {
	moment := time.NewTimer(lastMoment)
	defer moment.Stop()
	select {
	case <-p.runner.exited:
	case <-p.runner.stalled:
	case <-moment.C:
		p.log.Error("plugin has broken its line and is killed", "kind", p.program.Kind, "plugin", p.program.Name, "plugin_pid", p.PID())
	}
	return p.stopNow()
}

// end kills and reaps the process, if there is one, and frees everything, once.
func (p *Process) end() error {
	p.ending.Do(func() { p.ended = p.kill() })
	return p.ended
}

func (p *Process) kill() error {
	p.runner.expectEnd()
	_ = p.descriptors.Close()
	defer func() {
		if p.socketDir != "" {
			_ = os.RemoveAll(p.socketDir) // go-plugin leaves it where the start failed
		}
	}()
	if !p.runner.started() {
		p.runner.discard()
		return nil
	}
	err := p.runner.Kill(context.Background())
	select {
	case <-p.runner.exited:
	case <-time.After(killWait):
		return errors.Join(err, fmt.Errorf("plugin %s (process %d) does not end even when killed; it hangs in the kernel", p.program.Name, p.PID()))
	}
	<-p.watched
	<-p.runner.relayed
	if p.met {
		p.client.Kill() // the process is gone: this only frees go-plugin's side
	} // else it would make a connection, to close it, and forget it when that fails
	_ = p.runner.stdout.Close()
	_ = p.runner.stderr.Close()
	return err
}
