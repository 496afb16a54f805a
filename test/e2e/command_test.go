// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os/exec"
	"testing"
	"time"
)

// result is what a program left behind.
type result struct {
	stdout, stderr string
	status         int
}

// commandTime ends a program that hangs.
const commandTime = 2 * time.Minute

// run runs a program to its end.
func run(t testing.TB, stdin io.Reader, name string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandTime)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = t.TempDir() // some leave files where they are
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("%v: %v\n%s%s", cmd.Args, err, stdout.String(), stderr.String())
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// must runs a program that has to succeed, and returns its standard output.
func must(t testing.TB, name string, args ...string) string {
	t.Helper()
	return mustFeed(t, nil, name, args...)
}

// mustFeed is must with standard input.
func mustFeed(t testing.TB, stdin io.Reader, name string, args ...string) string {
	t.Helper()
	r := run(t, stdin, name, args...)
	if r.status != 0 {
		t.Fatalf("%s %q: exit status %d\n%s%s", name, args, r.status, r.stdout, r.stderr)
	}
	return r.stdout
}
