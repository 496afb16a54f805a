// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"fmt"
	"os/signal"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

type mirrorCommand struct {
	Addr string `short:"l" long:"addr" value-name:"ADDR" required:"yes" description:"The address of the server to migrate to"`
	Port *port  `short:"p" long:"port" value-name:"PORT" description:"The port of the server to migrate to. Required with TCP"`
	socketOptions
	Bind string `short:"b" long:"bind" value-name:"BIND-ADDR" description:"The local address to connect from, where the other server has an access list"`

	Unlink      bool          `long:"unlink" description:"Remove the image once the other server has taken over"`
	MaxSpeed    rate          `long:"max-speed" value-name:"BYTES" description:"The most to send in a second; K, M and G are 2^10, 2^20 and 2^30 (default: no limit)"`
	MaxPause    time.Duration `long:"max-pause" value-name:"TIME" default:"500ms" description:"The longest that requests may be held back at the end"`
	Rehearse    bool          `long:"rehearse" description:"Do everything but give the disk away, and tell the pause that it would have cost"`
	Unconfirmed bool          `long:"unconfirmed" description:"Migrate to a server that is not flexnbd, which cannot confirm that it has the disk"`
	Wait        bool          `long:"wait" description:"Wait until the migration has ended, and show how it goes"`
	app         *app
}

// Execute implements flags.Commander.
func (c *mirrorCommand) Execute(args []string) error {
	if err := noArguments(args); err != nil {
		return err
	}
	if c.Unlink && c.Rehearse {
		return usagef("--rehearse gives nothing away, so there is nothing to --unlink")
	}
	if c.MaxPause < time.Millisecond {
		return usagef("--max-pause %v: at least 1ms", c.MaxPause)
	}
	if !c.Wait {
		return c.app.ask(c.Sock, "mirror", c.request()...)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGQUIT, unix.SIGTERM)
	defer stop()
	return c.app.follow(ctx, c.Sock, c.request())
}

// request is what the control socket is asked.
func (c *mirrorCommand) request() []string {
	then, bind := "exit", "-"
	switch {
	case c.Unlink:
		then = "unlink"
	case c.Rehearse:
		then = "nothing"
	}
	if c.Bind != "" {
		bind = c.Bind
	}
	words := []string{
		c.Addr, strconv.Itoa(int(c.Port.orZero())), then, bind,
		strconv.FormatInt(int64(c.MaxSpeed), 10), strconv.FormatInt(c.MaxPause.Milliseconds(), 10),
	}
	if c.Unconfirmed {
		words = append(words, "unconfirmed")
	}
	return words
}

type mirrorSpeedCommand struct {
	socketOptions
	MaxSpeed rate `long:"max-speed" value-name:"BYTES" required:"yes" description:"The most to send in a second; K, M and G are 2^10, 2^20 and 2^30; 0 for no limit"`
	app      *app
}

// Execute implements flags.Commander.
func (c *mirrorSpeedCommand) Execute(args []string) error {
	if err := noArguments(args); err != nil {
		return err
	}
	return c.app.ask(c.Sock, "mirror_max_bps", strconv.FormatInt(int64(c.MaxSpeed), 10))
}

type breakCommand struct {
	socketOptions
	app *app
}

// Execute implements flags.Commander.
func (c *breakCommand) Execute(args []string) error {
	if err := noArguments(args); err != nil {
		return err
	}
	return c.app.ask(c.Sock, "break")
}

type promoteCommand struct {
	socketOptions
	Args struct {
		ID string `positional-arg-name:"ID" description:"The migration that the disk is prepared for, as status shows it"`
	} `positional-args:"yes" required:"yes"`
	app *app
}

// Execute implements flags.Commander.
func (c *promoteCommand) Execute(args []string) error {
	if err := noArguments(args); err != nil {
		return err
	}
	return c.app.ask(c.Sock, "promote", c.Args.ID)
}

// rate is a number of bytes a second.
type rate int64

// UnmarshalFlag implements flags.Unmarshaler.
func (r *rate) UnmarshalFlag(s string) error {
	digits, shift := s, 0
	if n := len(s); n > 0 {
		switch s[n-1] {
		case 'K', 'k':
			shift = 10
		case 'M', 'm':
			shift = 20
		case 'G', 'g':
			shift = 30
		}
		if shift > 0 {
			digits = s[:n-1]
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || n > (1<<62)>>shift {
		return fmt.Errorf("%q is no number of bytes per second, such as 50M", s)
	}
	*r = rate(n << shift)
	return nil
}
