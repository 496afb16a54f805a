// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"

	"text/tabwriter"

	"github.com/flexnbd/flexnbd/core/check"
	"github.com/flexnbd/flexnbd/core/host"
	"github.com/flexnbd/flexnbd/core/logging"
	"github.com/flexnbd/flexnbd/sdk/option"
	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

type pluginCheckCommand struct {
	pluginView
	File     string `short:"f" long:"file" value-name:"LOCATION" description:"A backend's disk, on which everything is lost. {dir}/disk stands for a fresh file each time, {size} for the size of a fresh disk (default: {dir}/disk)"`
	Addr     string `short:"l" long:"addr" value-name:"ADDR" description:"Where a transport is to listen; {dir} stands for a fresh folder (default: 127.0.0.1)"`
	Port     port   `short:"p" long:"port" value-name:"PORT" description:"The port there; 0 for any"`
	SizeUnit string `long:"size-unit" value-name:"SIZE" description:"The sizes of fresh disks are multiples of this"`
	Only     string `long:"only" value-name:"REGEXP" description:"Only the clauses whose PART/NAME matches"`
	Seed     uint64 `long:"seed" value-name:"N" description:"Repeat the random operations of the run that printed it"`
	Args     struct {
		Plugin string `positional-arg-name:"BINARY[,key=value...]" description:"The plugin's binary or bundle, or a name that is found" required:"yes"`
	} `positional-args:"yes"`
}

// clauses is what `plugin check --json` prints.
type clauses struct {
	Kept    bool     `json:"kept"` // the contract is
	Problem string   `json:"problem,omitempty"`
	Clauses []clause `json:"clauses"`
}

// clause is one clause of the contract. State is "ok", "broken" or "skipped".
type clause struct {
	Part    string  `json:"part"`
	Name    string  `json:"name"`
	Says    string  `json:"says,omitempty"`
	State   string  `json:"state"`
	Problem string  `json:"problem,omitempty"`
	Seconds float64 `json:"seconds"`
}

// Execute implements flags.Commander.
func (c *pluginCheckCommand) Execute(args []string) error {
	if err := noArguments(args); err != nil {
		return err
	}
	config, err := c.config()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	out := clauses{Clauses: []clause{}}
	err = check.Run(ctx, config, func(r check.Result) {
		out.Clauses = append(out.Clauses, clauseOf(r))
		if !c.JSON {
			_, _ = fmt.Fprintln(c.app.stdout, r)
		}
	})
	if err != nil && !errors.Is(err, check.ErrBroken) {
		return err
	}
	if out.Kept = err == nil; !out.Kept {
		out.Problem = err.Error()
	}
	if err := c.show(out, func(w *tabwriter.Writer) {
		if out.Kept {
			_, _ = fmt.Fprintf(w, "\n%s %s keeps its contract.\n", config.Program.Kind, config.Program.Name)
		} else {
			_, _ = fmt.Fprintf(w, "\n%s\n", out.Problem)
		}
	}); err != nil {
		return err
	}
	if !out.Kept {
		return exitError(exitFailure)
	}
	return nil
}

func clauseOf(r check.Result) clause {
	c := clause{Part: r.Part, Name: r.Name, Says: r.Says, State: "ok", Seconds: r.Took.Seconds()}
	switch {
	case r.Skipped != "":
		c.State, c.Problem = "skipped", r.Skipped
	case r.Err != nil:
		c.State, c.Problem = "broken", r.Err.Error()
	}
	return c
}

func (c *pluginCheckCommand) config() (config check.Config, err error) {
	finder, err := c.finder()
	if err != nil {
		return config, err
	}
	// Which kind it is, its name says; for the rest either kind's will do.
	spec, err := host.ParseSpec(wire.KindBackend, c.Args.Plugin)
	if err != nil {
		return config, usageError{err}
	}
	wanted := spec.Path + spec.Name
	if spec.Stock {
		wanted = "builtin:" + spec.Name
	}
	p, err := pick(finder, wanted)
	if err == nil && p.Program.Waits() {
		err = errWaits(p)
	}
	if err == nil {
		err = p.Problem
	}
	if err != nil {
		return config, err
	}
	config = check.Config{
		Program: p.Program, Location: c.File, Options: spec.Options,
		Address: transport.Address{Addr: c.Addr, Port: uint16(c.Port)},
		Seed:    c.Seed,
	}
	if *c.app.global.verbosity == logging.Verbose {
		config.Log = c.app.logger("main")
	}
	if config.Location == "" {
		config.Location = "{dir}/disk"
	}
	if config.Address.Addr == "" {
		config.Address.Addr = "127.0.0.1"
	}
	if c.SizeUnit != "" {
		unit, ok := option.ParseSize(c.SizeUnit)
		if !ok || unit < 1 || unit > 64<<10 {
			return config, usagef("--size-unit %s: want 1 to 64K bytes, such as 512 or 4K", c.SizeUnit)
		}
		config.SizeUnit = unit
	}
	if c.Only != "" {
		if config.Only, err = regexp.Compile(c.Only); err != nil {
			return config, usagef("--only: %s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
		}
	}
	return config, nil
}
