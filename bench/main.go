// SPDX-License-Identifier: GPL-3.0-or-later

// Command bench measures whole flexnbd processes and prints what docs/performance.md
// reports. It needs bin/flexnbd (make build) and asserts nothing: the machines it
// runs on are shared and noisy.
//
//	go run ./bench            # everything
//	go run ./bench ready idle # some of it
package main

import (
	"fmt"
	"os"
	"slices"
)

// figures are what can be measured, in the order they are.
var figures = []struct {
	name    string
	measure func(binary string) ([]row, error)
}{
	{"ready", measureReady},
	{"idle", measureIdle},
	{"payload", measurePayload},
}

// row is one line of the report.
type row struct{ what, value, aim string }

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(wanted []string) error {
	const binary = "bin/flexnbd"
	if _, err := os.Stat(binary); err != nil {
		return fmt.Errorf("%w; run 'make build' in the top folder, and bench from there", err)
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
