// SPDX-License-Identifier: GPL-3.0-or-later

package migrate

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/flexnbd/flexnbd/bench/machine"
)

// Main carries out "bench migrate" with its arguments: it measures, prints what it
// measures to out, and writes the reports. It has to be called on the main thread, with
// that locked to its goroutine.
func Main(binary string, arguments []string, out io.Writer) error {
	o, err := parseOptions(binary, arguments, os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := os.Stat(o.Binary); err != nil {
		return fmt.Errorf("%w; run 'make build' in the top folder, and bench from there", err)
	}
	for _, name := range []string{"nbdkit", "nbdcopy"} {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("%w: apt-get install nbdkit libnbd-bin", err)
		}
	}
	// See package load.
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), 3))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b := &bench{options: o, out: out}
	b.results.Machine, b.results.Options = machine.This(), o
	if err := b.run(ctx); err != nil {
		return err
	}
	if o.Out == "" {
		return nil
	}
	return b.results.write(o.Out)
}
