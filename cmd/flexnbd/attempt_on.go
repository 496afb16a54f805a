// SPDX-License-Identifier: GPL-3.0-or-later

//go:build failpoints

package main

import (
	"context"

	"github.com/flexnbd/flexnbd/core/control"
	"github.com/flexnbd/flexnbd/core/sandbox/sandboxtest"
)

// testVerbs are what the control socket of a build for tests answers besides: attempts
// to do what the sandbox should prevent, as somebody would who has taken over the
// process.
func testVerbs() map[string]control.Verb { return map[string]control.Verb{"attempt": attempt} }

// attempt answers with what came of one attempt: a word, and what it is about.
func attempt(_ context.Context, args []string) control.Answer {
	if len(args) != 2 {
		return no("attempt WHAT ON")
	}
	return control.Answer{Text: sandboxtest.Try(args[0], args[1])}
}
