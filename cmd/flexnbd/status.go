// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/control"
)

type socketOptions struct {
	Sock string `short:"s" long:"sock" value-name:"SOCK" required:"yes" description:"The control socket of the server"`
}

type statusCommand struct {
	socketOptions
	JSON    bool           `long:"json" description:"Show one JSON object instead of key=value pairs"`
	Watch   *time.Duration `long:"watch" optional:"yes" optional-value:"1s" value-name:"TIME" description:"Show it again and again, until the server ends; --watch=5s sets how often"`
	Explain bool           `long:"explain" description:"Say in words whose the disk is and what to do"`
	app     *app
}

// Execute implements flags.Commander.
func (c *statusCommand) Execute(args []string) error {
	if err := noArguments(args); err != nil {
		return err
	}
	if c.Watch != nil && *c.Watch < 10*time.Millisecond {
		return usagef("--watch=%v: at least 10ms", *c.Watch)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGQUIT, unix.SIGTERM)
	defer stop()
	err := c.show(ctx)
	if c.Watch == nil || err != nil {
		return err
	}
	again := time.NewTicker(*c.Watch)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
		}
		err := c.show(ctx)
		switch {
		case err == nil:
		case ctx.Err() != nil, hasEnded(err):
			return nil
		default:
			return err
		}
	}
}

// hasEnded says whether a server that answered before has ended, perhaps in the middle
// of this request.
func hasEnded(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrUnexpectedEOF)
}

// show asks once and prints the answer.
func (c *statusCommand) show(ctx context.Context) error {
	verb := "status"
	if c.Explain {
		verb = "explain"
	}
	answer, err := control.Call(ctx, c.Sock, verb)
	if err != nil {
		return err
	}
	switch {
	case answer.Code != 0:
	case c.JSON:
		answer.Text, err = asJSON(answer.Text)
	case c.Explain:
		answer.Text, err = asText(answer.Text)
	}
	if err != nil {
		return err
	}
	return c.app.say(answer)
}

// asJSON makes one object of key=value pairs, with numbers and truth values as
// such, in their order.
func asJSON(text string) (string, error) {
	pairs, err := control.ParsePairs(text)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for i, p := range pairs {
		value := p.Value
		if _, err := strconv.ParseInt(value, 10, 64); err != nil && value != "true" && value != "false" {
			quoted, err := json.Marshal(value)
			if err != nil {
				return "", err
			}
			value = string(quoted)
		}
		b.WriteByte("{,"[min(i, 1)])
		fmt.Fprintf(&b, "%q:%s", p.Key, value)
	}
	return b.String() + "}", nil
}

// asText returns the explanation, with lines that fit a terminal.
func asText(answer string) (string, error) {
	pairs, err := control.ParsePairs(answer)
	if err != nil {
		return "", err
	}
	text, _ := pairs.Get("explanation")
	return wrap(text), nil
}

// wrap breaks the lines of a text where they would not fit a terminal.
func wrap(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		column := 0
		for word := range strings.FieldsSeq(line) {
			switch {
			case column > 0 && column+1+len(word) > terminalWidth:
				b.WriteByte('\n')
				column = 0
			case column > 0:
				b.WriteByte(' ')
				column++
			}
			b.WriteString(word)
			column += len(word)
		}
		b.WriteByte('\n')
	}
	return strings.TrimSuffix(b.String(), "\n")
}

const terminalWidth = 79

// ask sends a request to a server's control socket, prints the answer, and exits
// with what the server says.
func (a *app) ask(sock, verb string, args ...string) error {
	answer, err := control.Call(context.Background(), sock, verb, args...)
	if err != nil {
		return err
	}
	return a.say(answer)
}

// say prints an answer; the error is the exit status that it asks for.
func (a *app) say(answer control.Answer) error {
	if answer.Code != 0 {
		_, _ = fmt.Fprintln(a.stderr, answer.Text) // the exit status says it too
		return exitError(answer.Code)
	}
	_, err := fmt.Fprintln(a.stdout, answer.Text)
	return err
}
