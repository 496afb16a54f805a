// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

// diagnose turns a failed start into words for the operator. go-plugin's error
// says at which step it stopped; what the process printed and how it ended says
// more.
func (p *Process) diagnose(ctx context.Context, took time.Duration, err error) error {
	if ctx.Err() != nil {
		return givenUp(ctx)
	}
	r := p.runner
	if !r.started() {
		return notExecuted(err)
	}
	line, printed := r.stdout.firstLine()
	if version, ok := handshakeVersion(line); ok && version != wire.ProtocolVersion {
		return fmt.Errorf("speaks version %d of the plugin protocol, this flexnbd speaks %d: install a build of the plugin for this flexnbd", version, wire.ProtocolVersion)
	}
	if printed && !looksLikeHandshake(line) {
		return fmt.Errorf("printed %s on its standard output where the handshake was expected; it is no flexnbd plugin, or it prints before it calls the SDK", quote(line))
	}
	if how, ended := r.endedByItself(); ended {
		return fmt.Errorf("ended before its handshake (%s); its last words: %s", how, quote(r.stderr.lastLine()))
	}
	switch {
	case printed:
		return fmt.Errorf("handshake failed: %w", err)
	case took < startWait:
		return errors.New("closed its standard output without a handshake; it is no flexnbd plugin")
	}
	return fmt.Errorf("said nothing on its standard output within %v; it hangs, or it is no flexnbd plugin", startWait)
}

// diagnoseDescribe does the same for what failed after the handshake line.
// describing is ctx with the time limit.
func (p *Process) diagnoseDescribe(ctx, describing context.Context, err error) error {
	if ctx.Err() != nil {
		return givenUp(ctx)
	}
	if describing.Err() != nil {
		return fmt.Errorf("did not say what it is within %v of its handshake; it hangs, or it is overloaded", describeWait)
	}
	if errors.Is(err, wire.ErrPluginGone) {
		if how, ended := p.runner.endedByItself(); ended {
			return fmt.Errorf("ended right after its handshake (%s); its last words: %s", how, quote(p.runner.stderr.lastLine()))
		}
	}
	return err
}

func givenUp(ctx context.Context) error {
	return fmt.Errorf("start given up: %w", context.Cause(ctx))
}

// endedByItself says whether the process has ended, or does so in a moment, and
// not because it was killed. What it said has been read then.
func (r *runner) endedByItself() (how string, ended bool) {
	select {
	case <-r.exited:
	case <-time.After(lastWords):
		return "", false
	}
	<-r.relayed // shortly after: see reap
	return exitText(r.exit), !r.wasKilled()
}

// notExecuted explains why the kernel did not run a file.
func notExecuted(err error) error {
	switch {
	case errors.Is(err, syscall.ENOEXEC):
		return fmt.Errorf("is no program for this machine: %w", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("cannot be executed: %w; check its mode and whether its file system is mounted noexec", err)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("cannot be executed: %w; it is not there, or the interpreter or loader it names is not", err)
	}
	return err
}

// handshakeVersion finds the protocol version in "1|VERSION|network|address|grpc".
func handshakeVersion(line string) (int, bool) {
	fields := strings.Split(line, "|")
	if len(fields) < 5 {
		return 0, false
	}
	version, err := strconv.Atoi(fields[1])
	return version, err == nil
}

func looksLikeHandshake(line string) bool {
	_, ok := handshakeVersion(line)
	return ok
}

// exitText says how a process ended.
func exitText(err error) string {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return "exit status 0"
	case errors.As(err, &exit):
		return exit.String()
	}
	return err.Error()
}

func quote(s string) string {
	const most = 200
	if s == "" {
		return "none"
	}
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strconv.Quote(s)
}
