// SPDX-License-Identifier: GPL-3.0-or-later

package compare

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
)

// Options say what to measure.
type Options struct {
	Rounds     int           `json:"rounds"`
	Slice      time.Duration `json:"slice_ns"`
	Size       int64         `json:"image_bytes"`
	Structured bool          `json:"structured_replies"`
	Verify     bool          `json:"verify"`
	Awake      bool          `json:"awake,omitempty"`
	Scenario   string        `json:"scenario,omitempty"`
	Media      []string      `json:"media,omitempty"`
	Servers    []string      `json:"servers,omitempty"`
	Out        string        `json:"-"`
}

// defaultOut is where the committed results are.
const defaultOut = "docs/performance"

// parseOptions reads the command line. What is wrong with it, or the help that was
// asked for, goes to out.
func parseOptions(arguments []string, out io.Writer) (o Options, err error) {
	f := flag.NewFlagSet("bench compare", flag.ContinueOnError)
	f.SetOutput(out)
	f.IntVar(&o.Rounds, "rounds", 11, "rounds, in each of which every server has one slice")
	f.DurationVar(&o.Slice, "slice", 300*time.Millisecond, "length of a slice")
	size := f.Int64("size", 1024, "size of the image in MiB")
	f.BoolVar(&o.Structured, "structured", false, "ask for structured replies; servers without them answer with simple ones")
	f.BoolVar(&o.Verify, "verify", false, "compare every byte that is read; without, the first 8 of each 4 KiB are, and all in the warm-up, which does not count")
	f.BoolVar(&o.Awake, "awake", false, "keep the CPUs from idling, which a virtual machine pays for, with a loop of class SCHED_IDLE on each")
	f.StringVar(&o.Scenario, "scenario", "", "run the scenarios that match this `regexp`")
	lists := map[string]*string{
		"medium": f.String("medium", "", "run on these media only: a `list` like tmpfs,loop"),
		"server": f.String("server", "", "run these servers only: a `list` like 'flexnbd-*,nbdkit'"),
	}
	f.StringVar(&o.Out, "out", "", "write results.txt, results.json and plots to this `folder` (default "+defaultOut+" if all scenarios, media and servers run, else none)")
	if err := f.Parse(arguments); err != nil {
		return o, err
	}
	o.Size = *size * mib
	o.Media, o.Servers = split(*lists["medium"]), split(*lists["server"])
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case o.Rounds < 1 || o.Rounds > 10000:
		return o, errors.New("-rounds: from 1 to 10000")
	case o.Slice < time.Millisecond || o.Slice > time.Minute:
		return o, errors.New("-slice: from 1ms to 1m")
	case o.Size < 64*mib || o.Size > 1<<40:
		return o, errors.New("-size: from 64 to 1048576")
	}
	if whole := o.Scenario == "" && o.Media == nil && o.Servers == nil; o.Out == "" && whole {
		o.Out = defaultOut
	}
	return o, nil
}

func split(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}

// selectScenarios returns those whose name matches.
func selectScenarios(pattern string) (chosen []scenario, err error) {
	match, err := regexp.Compile(pattern)
	if err != nil {
		return nil, fmt.Errorf("-scenario: %w", err)
	}
	var names []string
	for _, s := range scenarios {
		names = append(names, s.name)
		if match.MatchString(s.name) {
			chosen = append(chosen, s)
		}
	}
	if chosen == nil {
		return nil, fmt.Errorf("-scenario %s: matches none of %s", pattern, strings.Join(names, ", "))
	}
	return chosen, nil
}

// mostConnections is how many connections a scenario has at most.
func mostConnections(list []scenario) int {
	most := 1
	for _, s := range list {
		most = max(most, s.Connections)
	}
	return most
}

// warmUp is how long a server is under load before its slice.
func (o *Options) warmUp() time.Duration { return o.Slice / 3 }
