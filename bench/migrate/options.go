// SPDX-License-Identifier: GPL-3.0-or-later

package migrate

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Options say what to measure.
type Options struct {
	Rounds  int           `json:"rounds"`
	Samples int           `json:"samples"`
	Slice   time.Duration `json:"slice_ns"`
	Figures []string      `json:"figures"`
	Media   []string      `json:"media"`
	Lanes   []string      `json:"lanes"`
	Binary  string        `json:"-"`
	Out     string        `json:"-"`
}

// defaultOut is where the committed results are.
const defaultOut = "docs/performance"

// lanes of flexnbd between core and backend.
var lanes = []string{"file", "ring", "rpc"}

// parseOptions reads the command line. What is wrong with it, or the help that was
// asked for, goes to out.
func parseOptions(binary string, arguments []string, out io.Writer) (o Options, err error) {
	f := flag.NewFlagSet("bench migrate", flag.ContinueOnError)
	f.SetOutput(out)
	f.IntVar(&o.Rounds, "rounds", 11, "rounds, in each of which every side has one turn")
	f.IntVar(&o.Samples, "samples", 60, "rehearsals, and migrations of each kind, whose pauses are measured")
	f.DurationVar(&o.Slice, "slice", time.Second, "how long clients' requests are counted in a turn")
	f.StringVar(&o.Binary, "binary", binary, "the flexnbd `program` to measure")
	f.StringVar(&o.Out, "out", "", "write migration.md and migration.json to this `folder` (default "+defaultOut+" if everything is measured, else none)")
	lists := []struct {
		name  string
		all   []string
		into  *[]string
		given *string
	}{
		{name: "figure", all: figureNames(), into: &o.Figures},
		{name: "medium", all: mediumNames(), into: &o.Media},
		{name: "lane", all: lanes, into: &o.Lanes},
	}
	for i := range lists {
		l := &lists[i]
		l.given = f.String(l.name, "", fmt.Sprintf("measure this only: a `list` of %s", strings.Join(l.all, ",")))
	}
	if err := f.Parse(arguments); err != nil {
		return o, err
	}
	whole := true
	for _, l := range lists {
		if *l.into, err = choose(l.name, *l.given, l.all); err != nil {
			return o, err
		}
		whole = whole && *l.given == ""
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case o.Rounds < 1 || o.Rounds > 1000:
		return o, errors.New("-rounds: from 1 to 1000")
	case o.Samples < 1 || o.Samples > 100000:
		return o, errors.New("-samples: from 1 to 100000")
	case o.Slice < time.Millisecond || o.Slice > time.Minute:
		return o, errors.New("-slice: from 1ms to 1m")
	}
	if o.Out == "" && whole {
		o.Out = defaultOut
	}
	return o, nil
}

// choose returns those of all that the list names, in the order of all, or all for an
// empty list.
func choose(what, list string, all []string) (chosen []string, err error) {
	if list == "" {
		return all, nil
	}
	wanted := strings.Split(list, ",")
	for _, w := range wanted {
		if !slices.Contains(all, w) {
			return nil, fmt.Errorf("-%s %s: there is none of that name; there are %s", what, w, strings.Join(all, ", "))
		}
	}
	for _, name := range all {
		if slices.Contains(wanted, name) {
			chosen = append(chosen, name)
		}
	}
	return chosen, nil
}
