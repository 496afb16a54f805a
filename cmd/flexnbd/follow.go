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
)

// follow waits until the migration of the server at sock has ended, shows how it
// goes, and exits with what became of it. Whoever interrupts it does not stop the
// migration.
func (a *app) follow(ctx context.Context, sock string) error {
	// Without a deadline a call would end after two minutes.
	waiting, cancel := context.WithTimeout(ctx, longestMigration)
	defer cancel()
	type outcome struct {
		answer control.Answer
		err    error
	}
	ended := make(chan outcome, 1)
	go func() {
		answer, err := control.Call(waiting, sock, "mirror_wait")
		ended <- outcome{answer, err}
	}()
	show, every := a.progress()
	look := time.NewTicker(every)
	defer look.Stop()
	for {
		select {
		case o := <-ended:
			show(nil)
			switch {
			case ctx.Err() != nil:
				return errors.New("interrupted; the migration goes on: `flexnbd status` shows it, `flexnbd break` stops it")
			case o.err != nil:
				return o.err
			}
			return a.say(o.answer)
		case <-look.C:
			if answer, err := control.Call(waiting, sock, "status"); err == nil && answer.Code == 0 {
				if pairs, err := control.ParsePairs(answer.Text); err == nil {
					show(pairs)
				}
			}
		}
	}
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
		progressbar.OptionShowBytes(true),
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
		bar.ChangeMax64(max(sent+left, 1))
		_ = bar.Set64(sent)
	}, 200 * time.Millisecond
}

// lines shows a status as a line.
func (a *app) lines(p control.Pairs) {
	if mirroring, _ := p.Get("is_mirroring"); mirroring != "true" {
		return
	}
	state, _ := p.Get("migration_state")
	line := fmt.Sprintf("%s: %d MiB sent, %d MiB left, %d MiB/s", state,
		number(p, "migration_bytes_sent")>>20, number(p, "migration_bytes_left")>>20, number(p, "migration_speed")>>20)
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
