// SPDX-License-Identifier: GPL-3.0-or-later

// Command bench measures whole flexnbd processes and prints what docs/performance.md
// reports. It needs bin/flexnbd (make build) and asserts nothing: the machines it
// runs on are shared and noisy.
//
//	go run ./bench                  # flexnbd's own figures
//	go run ./bench ready idle       # some of them
//	go run ./bench compare          # side by side with other NBD servers
//	go run ./bench compare -rounds 5 -scenario r4k -medium tmpfs
//	go run ./bench compare -help
//	go run ./bench migrate          # what migrations cost
//	go run ./bench migrate -help
package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/flexnbd/flexnbd/bench/compare"
	"github.com/flexnbd/flexnbd/bench/migrate"
)

// figure is something to measure.
type figure struct {
	name    string
	measure func(binary string) ([]row, error)
}

// figures are what can be measured, in the order they are.
var figures = []figure{
	{"ready", measureReady},
	{"idle", onEachLane(measureIdle)},
	{"payload", onEachLane(measurePayload)},
}

// onEachLane measures what depends on the lane between core and backend.
func onEachLane(measure func(binary, lane string) ([]row, error)) func(binary string) ([]row, error) {
	return func(binary string) (all []row, err error) {
		for _, lane := range []string{"file", "ring", "rpc"} {
			rows, err := measure(binary, lane)
			if err != nil {
				return nil, fmt.Errorf("lane %s: %w", lane, err)
			}
			for _, r := range rows {
				r.what = lane + " lane: " + r.what
				all = append(all, r)
			}
		}
		return all, nil
	}
}

func names() (list []string) {
	for _, f := range figures {
		list = append(list, f.name)
	}
	return list
}

// row is one line of the report.
type row struct{ what, value, aim string }

// The main goroutine stays on the main thread, as servers are to be killed when the
// thread ends that started them.
func init() { runtime.LockOSThread() }

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(wanted []string) error {
	const binary = "bin/flexnbd"
	if len(wanted) > 0 && wanted[0] == "migrate" {
		return migrate.Main(binary, wanted[1:], os.Stdout)
	}
	if _, err := os.Stat(binary); err != nil {
		return fmt.Errorf("%w; run 'make build' in the top folder, and bench from there", err)
	}
	if len(wanted) > 0 && wanted[0] == "compare" {
		return compare.Main(binary, wanted[1:], os.Stdout)
	}
	for _, name := range wanted {
		if !slices.ContainsFunc(figures, func(f figure) bool { return f.name == name }) {
			return fmt.Errorf("there is no figure %q; there are %s, compare and migrate", name, strings.Join(names(), ", "))
		}
	}
	fmt.Printf("%-60s %14s  %s\n", "what", "measured", "aim")
	for _, f := range figures {
		if len(wanted) > 0 && !slices.Contains(wanted, f.name) {
			continue
		}
		rows, err := f.measure(binary)
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		for _, r := range rows {
			fmt.Printf("%-60s %14s  %s\n", r.what, r.value, r.aim)
		}
	}
	return nil
}
