// SPDX-License-Identifier: GPL-3.0-or-later

package compare

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"github.com/flexnbd/flexnbd/bench/machine"
)

// Main carries out "bench compare" with its arguments: it measures, prints what it
// measures to out, and writes the reports. It has to be called on the main thread,
// with that locked to its goroutine.
func Main(binary string, arguments []string, out io.Writer) error {
	o, err := parseOptions(arguments, os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	b, err := newBench(binary, o, out)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if o.Awake {
		loops, err := keepAwake()
		if err != nil {
			return err
		}
		defer loops.stop()
	}
	if err := b.run(ctx); err != nil {
		return err
	}
	if o.Out == "" {
		return nil
	}
	return b.results.write(o.Out)
}

// newBench finds out what there is to do, and whether it can be done, before
// anything is started.
func newBench(binary string, o Options, out io.Writer) (*bench, error) {
	all, err := flexnbds(binary)
	if err != nil {
		return nil, err
	}
	all = append(all, peers...)
	if old := os.Getenv("PEER_FLEXNBD"); old != "" {
		all = append(all, oldFlexnbd(old))
	}
	b := &bench{options: o, out: out}
	if b.servers, err = selectServers(all, o.Servers); err != nil {
		return nil, err
	}
	if b.scenarios, err = selectScenarios(o.Scenario); err != nil {
		return nil, err
	}
	if b.media, err = selectMedia(o.Media); err != nil {
		return nil, err
	}
	for _, m := range b.media {
		if err := m.check(); err != nil {
			return nil, err
		}
	}
	if err := checkInstalled(b.servers); err != nil {
		return nil, err
	}
	if err := build(b.servers); err != nil {
		return nil, err
	}
	if err := adopt(); err != nil {
		return nil, err
	}
	// See package load.
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), mostConnections(b.scenarios)+2))
	b.results.Options = o
	b.results.Machine = machine.This()
	var names []string
	for _, s := range b.servers {
		version, err := versionOf(s)
		if err != nil {
			return nil, err
		}
		b.results.Servers = append(b.results.Servers, ServerFacts{
			Name: s.name, Lane: s.lane, Version: version, Idle: map[string]int64{},
		})
		names = append(names, s.name)
	}
	_, err = fmt.Fprintf(out, "%d rounds of %v for %s\n", o.Rounds, o.Slice, strings.Join(names, ", "))
	return b, err
}
