// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/flexnbd/flexnbd/core/control"
	"github.com/flexnbd/flexnbd/core/mirror"
)

// follow orders a migration from the server at sock, waits until it has ended, shows
// how it goes, and exits with what became of it. Order and wait are one request, so
// that a server which ends at once can't escape its answer. Whoever interrupts follow
// does not stop a migration that has started.
func (a *app) follow(ctx context.Context, sock string, order []string) error {
	// Without a deadline a call would end after two minutes.
	waiting, cancel := context.WithTimeout(ctx, longestMigration)
	defer cancel()
	type outcome struct {
		answer control.Answer
		err    error
	}
	ended := make(chan outcome, 1)
	go func() {
		answer, err := control.Call(waiting, sock, "mirror_wait", order...)
		ended <- outcome{answer, err}
	}()
	show, every := a.progress()
	started := false
	look := time.NewTicker(startLook)
	defer look.Stop()
	for {
		select {
		case o := <-ended:
			show(nil)
			switch {
			case ctx.Err() != nil:
				return interrupted(started)
			case o.err != nil:
				return o.err
			case o.answer.Code == 0 && !started:
				_, _ = fmt.Fprintln(a.stdout, saidAtStart)
			}
			return a.say(o.answer)
		case <-look.C:
			pairs := progressOf(waiting, sock)
			if !started && len(ended) == 0 && hasStarted(pairs) {
				started = true
				_, _ = fmt.Fprintln(a.stdout, saidAtStart)
				look.Reset(every)
			}
			if started && pairs != nil {
				show(pairs)
			}
		}
	}
}

const (
	saidAtStart = "Migration started" // as the verb mirror answers
	startLook   = 50 * time.Millisecond
)

func interrupted(started bool) error {
	if started {
		return errors.New("interrupted; the migration goes on: `flexnbd status` shows it, `flexnbd break` stops it")
	}
	return errors.New("interrupted before the migration had started; should it have started since, `flexnbd status` shows it, and `flexnbd break` stops it")
}

// progressOf is the server's status, or nil.
func progressOf(ctx context.Context, sock string) control.Pairs {
	answer, err := control.Call(ctx, sock, "status")
	if err != nil || answer.Code != 0 {
		return nil
	}
	pairs, err := control.ParsePairs(answer.Text)
	if err != nil {
		return nil
	}
	return pairs
}

// hasStarted says whether the destination has been reached: the state before is
// connecting, and an order that is refused gets no further.
func hasStarted(p control.Pairs) bool {
	mirroring, _ := p.Get("is_mirroring")
	state, _ := p.Get("migration_state")
	return mirroring == "true" && state != string(mirror.StateConnecting)
}

// longestMigration is longer than any.
const longestMigration = 10 * 365 * 24 * time.Hour

// progress returns what shows a server's status, nil at the end, and how often it
// is to be called: a bar on a terminal, else a line now and then.
func (a *app) progress() (show func(control.Pairs), every time.Duration) {
	if f, ok := a.stderr.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		return a.lines, 5 * time.Second
	}
	bar := progressbar.NewOptions64(1,
		progressbar.OptionSetWriter(a.stderr),
		progressbar.OptionUseANSICodes(true), // it blanks the line before it writes, else
		progressbar.OptionShowBytes(true),
		progressbar.OptionUseIECUnits(true),
		progressbar.OptionSetWidth(30),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionSetPredictTime(true),
	)
	return func(p control.Pairs) {
		if p == nil {
			_ = bar.Exit()
			_ = bar.Clear()
			return
		}
		sent, left := number(p, "migration_bytes_sent"), number(p, "migration_bytes_left")
		state, _ := p.Get("migration_state")
		bar.Describe(state)
		bar.ChangeMax64(sent + left + 1) // a bar that was full once is shown no more
		_ = bar.Set64(sent)
	}, 200 * time.Millisecond
}

// lines shows a status as a line.
func (a *app) lines(p control.Pairs) {
	if mirroring, _ := p.Get("is_mirroring"); mirroring != "true" {
		return
	}
	state, _ := p.Get("migration_state")
	line := state
	if _, copying := p.Get("migration_bytes_left"); copying {
		line += fmt.Sprintf(": %d MiB sent, %d MiB left, %d MiB/s",
			number(p, "migration_bytes_sent")>>20, number(p, "migration_bytes_left")>>20, number(p, "migration_speed")>>20)
	}
	if left, ok := p.Get("migration_seconds_left"); ok && left != "-1" {
		line += ", " + left + " s left"
	}
	if why, ok := p.Get("migration_error"); ok {
		line += "; last failure: " + why
	}
	_, _ = fmt.Fprintln(a.stderr, line)
}

func number(p control.Pairs, key string) int64 {
	text, _ := p.Get(key)
	n, _ := strconv.ParseInt(text, 10, 64) // 0 where there is none
	return n
}
