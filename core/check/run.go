// SPDX-License-Identifier: GPL-3.0-or-later

package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/core/host"
	"github.com/flexnbd/flexnbd/sdk/storetest"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// run is one check under way. One goroutine uses it.
type run struct {
	Config
	each  func(Result)
	log   *witness
	host  *host.Host
	place *place

	fixed int64 // the size of the one disk there is; 0: of any size

	checked, broken int
}

func newRun(config Config, each func(Result)) (*run, error) {
	switch kind := config.Program.Kind; {
	case kind != wire.KindBackend && kind != wire.KindTransport:
		return nil, fmt.Errorf("a plugin of kind %q can't be checked", kind)
	case kind == wire.KindBackend && config.Location == "":
		return nil, errors.New("no disk to check the backend on; name one whose content may be lost, or one with {size} or {dir} in its name")
	case kind == wire.KindTransport && config.Address.Addr == "":
		return nil, errors.New("no address to check the transport at; name one where it may listen, 127.0.0.1 or {dir}/socket say")
	}
	config.Limit = cmp.Or(config.Limit, usual)
	if config.Log == nil {
		config.Log = hclog.NewNullLogger()
	}
	r := &run{Config: config, each: each, log: &witness{Logger: config.Log}, place: &place{location: config.Location, options: config.Options}}
	var err error
	r.host, err = host.New(r.log)
	return r, err
}

func (r *run) close() error { return r.host.Close() }

// wanted says whether a clause is to be checked.
func (r *run) wanted(part, name string) bool {
	return r.Only == nil || r.Only.MatchString(Result{Part: part, Name: name}.Path())
}

// wantsAny says whether anything of a part is to be checked: one of sdk/storetest's
// clauses, or one of these.
func (r *run) wantsAny(part string, names ...string) bool {
	for _, c := range storetest.Clauses() {
		names = append(names, c.Name)
	}
	return slices.ContainsFunc(names, func(name string) bool { return r.wanted(part, name) })
}

// notWanted is the reason for leaving out what is not to be heard of.
const notWanted = "not asked for"

// report counts a result and passes it on.
func (r *run) report(result Result) {
	if result.Skipped == notWanted {
		return
	}
	if result.Skipped == "" {
		r.checked++
	}
	if result.Err != nil {
		r.broken++
	}
	r.each(result)
}

// promise is a clause of this package's own.
type promise struct {
	part, name, says string
	// check returns what is wrong, or why there is nothing to check.
	check func(ctx context.Context) (leftOut string, wrong error)
}

// try checks a promise and reports it. It says whether that was kept; one that was not
// asked for counts as kept, and is checked all the same if others build on it.
func (r *run) try(ctx context.Context, p promise, basic bool) bool {
	result := Result{Part: p.part, Name: p.name, Says: p.says}
	if !r.wanted(p.part, p.name) && !basic {
		return true
	}
	if ctx.Err() != nil {
		return false
	}
	limited, cancel := context.WithTimeoutCause(ctx, r.Limit, fmt.Errorf("it has not ended within %v", r.Limit))
	defer cancel()
	began := time.Now()
	result.Skipped, result.Err = p.check(limited)
	result.Took = time.Since(began)
	if limited.Err() != nil && ctx.Err() == nil && result.Err != nil {
		result.Err = fmt.Errorf("%w: %w", context.Cause(limited), result.Err)
	}
	if result.Err == nil && !r.wanted(p.part, p.name) {
		return true
	}
	if result.Err != nil {
		result.Skipped = ""
	}
	r.report(result)
	return result.Err == nil
}
