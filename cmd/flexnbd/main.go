// SPDX-License-Identifier: GPL-3.0-or-later

// Command flexnbd serves a disk over NBD. `flexnbd help` lists what it can do;
// the manual page is docs/flexnbd.1.
//
// There is one file per verb. plugins.go wires the stock plugins in, which run
// as processes of their own out of this same binary.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"

	"github.com/jessevdk/go-flags"

	"github.com/flexnbd/flexnbd/core/logging"
)

// Exit statuses besides 0. A server's answer on the control socket brings its
// own.
const (
	exitFailure = 1
	exitUsage   = 2
	exitNotOurs = 3 // the disk's records say that this server must not serve it
)

func main() {
	args, confined := runLaunched(os.Args)
	if runStock(args, confined) {
		return
	}
	os.Exit(run(args[1:], os.Stdout, os.Stderr))
}

// run carries out one command line and returns the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == completeVerb {
		complete(args[1:], stdout)
		return 0
	}
	app := &app{stdout: stdout, stderr: stderr}
	parser := newParser(app)
	if len(args) == 0 {
		args = []string{"help"}
	}
	_, err := parser.ParseArgs(args)
	return app.report(err)
}

// app is what the verbs share.
type app struct {
	stdout, stderr io.Writer
	global         globalOptions
	parser         *flags.Parser
}

// newParser knows every verb. Options may stand behind other arguments.
func newParser(a *app) *flags.Parser {
	p := flags.NewNamedParser("flexnbd", flags.HelpFlag|flags.PassDoubleDash)
	p.ShortDescription = "NBD server whose disks can move"
	p.LongDescription = "Serves disks over NBD, with storage and transports as plugins."
	a.parser = p
	a.global = newGlobalOptions()
	must(p.AddGroup("Global options", "", &a.global))
	for _, v := range verbs(a) {
		must(p.AddCommand(v.name, v.short, v.long, v.command))
	}
	return p
}

type verb struct {
	name, short, long string
	command           any
}

func verbs(a *app) []verb {
	return []verb{
		{"serve", "Serve a disk", "Serves a disk until SIGINT, SIGQUIT or SIGTERM. Further arguments are the addresses and networks that may connect.", &serveCommand{app: a}},
		{"listen", "Wait for a disk, then serve it", "Waits for another server to migrate its disk into the given file, then serves it. Further arguments are the addresses and networks that may connect.", &listenCommand{app: a}},
		{"mirror", "Migrate a disk to another server", "Starts the migration of a server's disk to another server, while it is in use. Without --wait it prints \"Migration started\" and exits; 'flexnbd status' shows how it goes.", &mirrorCommand{app: a}},
		{"mirror-speed", "Change a migration's speed", "Changes how fast a running migration may send.", &mirrorSpeedCommand{app: a}},
		{"break", "Stop a migration", "Stops a running migration. Clients do not notice.", &breakCommand{app: a}},
		{"promote", "Take over a disk without its source", "Makes a waiting server serve a disk that was prepared for it and whose source is lost. Make sure first that the source cannot come back: two servers of one disk lose data.", &promoteCommand{app: a}},
		{"status", "Show a server's status", "Shows the status of the server with the given control socket, as key=value pairs.", &statusCommand{app: a}},
		{"acl", "Replace a server's access list", "Replaces the access list of the server with the given control socket: addresses and networks, uid:USER and gid:GROUP for clients on a Unix socket. Clients that it does not allow are disconnected.", &aclCommand{app: a}},
		{"read", "Read from a server", "Reads bytes from an NBD server in a single request and writes them to standard output.", &readCommand{app: a}},
		{"write", "Write to a server", "Writes bytes from standard input to an NBD server in a single request.", &writeCommand{app: a}},
		{"plugin", "Show, check, install and remove plugins", "Shows, checks, installs and removes plugins. 'flexnbd help plugin VERB' has the options of each.", newPluginCommand(a)},
		{"help", "Show help", "Shows the commands, or the options of one of them.", &helpCommand{app: a}},
		{"version", "Show the version", "Shows the version of flexnbd and of the plugin protocol that it speaks.", &versionCommand{app: a}},
	}
}

func must[T any](_ T, err error) {
	if err != nil {
		panic(err) // a mistake in the option structs
	}
}

// usageError is a mistake in the command line or the configuration.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// exitError is a status that somebody else decided on; it has been reported.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// report says what went wrong and returns the exit status.
func (a *app) report(err error) int {
	var usage usageError
	var exit exitError
	var others notOurs
	var parse *flags.Error
	if errors.As(err, &parse) {
		err = a.explain(parse)
	}
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return int(exit)
	case errors.As(err, &usage):
		_, _ = fmt.Fprintf(a.stderr, "flexnbd: %v\nSee 'flexnbd help%s'.\n", err, a.activeVerb())
		return exitUsage
	case errors.As(err, &others):
		_, _ = fmt.Fprintln(a.stderr, wrap("flexnbd: "+err.Error()))
		return exitNotOurs
	}
	logging.Fatal(a.logger("main"), err.Error())
	return exitFailure
}

// goType is how go-flags names the type of an option's value, which is of no use
// to people.
var goType = regexp.MustCompile(` \(expected \*?main\.\w+\)`)

// explain words a mistake that go-flags has found, or shows the help, which
// go-flags also takes for one.
func (a *app) explain(err *flags.Error) error {
	if err.Type == flags.ErrHelp {
		_, err := fmt.Fprintln(a.stdout, err.Message)
		return err
	}
	return usagef("%s", goType.ReplaceAllString(err.Message, ""))
}

// activeVerb is " VERB", or empty before one is known.
func (a *app) activeVerb() string {
	if a.parser.Active == nil {
		return ""
	}
	words := ""
	for verb := a.parser.Active; verb != nil; verb = verb.Active {
		words += " " + verb.Name
	}
	return words
}
