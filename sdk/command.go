// SPDX-License-Identifier: Apache-2.0

package sdk

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

// byHand is what a plugin does that a person has started, with the arguments that were
// given. It returns true if the plugin is to be served to a debugging host.
func byHand(d wire.Description, arguments []string, out io.Writer) (debug bool, err error) {
	f := flag.NewFlagSet(d.Name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	describe := f.Bool("describe", false, "")
	version := f.Bool("version", false, "")
	f.BoolVar(&debug, "debug", false, "")
	switch err := f.Parse(arguments); {
	case errors.Is(err, flag.ErrHelp), err == nil && f.NArg() == 0 && !*describe && !*version && !debug:
		return false, fmt.Errorf("this is flexnbd's %s plugin %q, version %s; flexnbd starts it by itself: flexnbd serve --%s %s; "+
			"for people it has --version, --describe (facts as JSON) and --debug (wait for a flexnbd that uses it)",
			d.Kind, d.Name, d.Version, d.Kind, ownPath())
	case err != nil:
		return false, fmt.Errorf("%w; there are --version, --describe and --debug", err)
	case f.NArg() > 0:
		return false, fmt.Errorf("unexpected argument %q; there are --version, --describe and --debug", f.Arg(0))
	case *describe:
		return false, writeFacts(out, d)
	case *version:
		_, err := fmt.Fprintf(out, "flexnbd-%s-%s %s (SDK %s)\n", d.Kind, d.Name, d.Version, d.SDKVersion)
		return false, err
	}
	return debug, nil
}

// ownPath is what an operator writes to have this binary started.
func ownPath() string {
	if path, err := os.Executable(); err == nil {
		return path
	}
	return os.Args[0]
}
