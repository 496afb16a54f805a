// SPDX-License-Identifier: GPL-3.0-or-later

package check

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/core/host"
	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// Config says what to check, and on what.
type Config struct {
	// Program is the plugin, as a [host.Finder] has found it.
	Program host.Program

	// Location is a backend's disk, as --file would name it; see the package
	// comment for "{size}" and "{dir}". EVERYTHING ON THAT DISK IS LOST.
	Location string
	// Options are the plugin's; the same words in braces are replaced there.
	Options map[string]string
	// SizeUnit, when not 0, says that the sizes which "{size}" and "{dir}" stand for
	// are multiples of it, at most 64 KiB.
	SizeUnit int64

	// Address is where a transport is to listen, if need be with port 0 for any.
	// "{dir}" stands for a new folder, with a path that is short enough for Unix
	// sockets.
	Address transport.Address

	// Only, when not nil, leaves out every clause whose "PART/NAME" it does not
	// match, "lane rpc/WritesReadBack" say.
	Only *regexp.Regexp
	// Limit is how long a clause may take; 0 stands for a minute.
	Limit time.Duration
	// Seed makes random operations the same as in the run that names it; 0 takes a
	// new one.
	Seed uint64

	// Log gets what flexnbd and the plugin have to say meanwhile. Nil: nobody does.
	Log hclog.Logger
}

// ErrBroken is inside Run's error when a clause does not hold.
var ErrBroken = errors.New("the plugin does not keep its contract")

// Run checks a plugin, and calls each with every result as it comes. The error is nil
// if all clauses hold that were checked; it is ErrBroken, with a count, if some do not;
// anything else says why the plugin could not be checked, or not to the end.
func Run(ctx context.Context, config Config, each func(Result)) (err error) {
	r, err := newRun(config, each)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	switch config.Program.Kind {
	case wire.KindBackend:
		r.backend(ctx)
	case wire.KindTransport:
		r.transport(ctx)
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("the check was given up: %w", context.Cause(ctx))
	case r.broken > 0:
		return fmt.Errorf("%w: %d of the %d clauses that were checked do not hold", ErrBroken, r.broken, r.checked)
	case r.checked == 0:
		return errors.New("nothing was checked: no clause has the name that was asked for, or none applies")
	}
	return nil
}

// usual is Config.Limit's default.
const usual = time.Minute

// KindOf tells a plugin's kind by the name of its file, flexnbd-backend-NAME or
// flexnbd-transport-NAME.
func KindOf(path string) (wire.Kind, error) {
	base := filepath.Base(path)
	for _, kind := range []wire.Kind{wire.KindBackend, wire.KindTransport} {
		if name, ok := strings.CutPrefix(base, prefix(kind)); ok && wire.ValidName(name) {
			return kind, nil
		}
	}
	return 0, fmt.Errorf("%s: a plugin's file is called %sNAME or %sNAME, with a name of 1 to 64 of a-z, 0-9 and \"-\"; rename it, or say of which kind it is",
		path, prefix(wire.KindBackend), prefix(wire.KindTransport))
}

func prefix(kind wire.Kind) string { return "flexnbd-" + kind.String() + "-" }
