// SPDX-License-Identifier: GPL-3.0-or-later

package migrate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/flexnbd/flexnbd/bench/machine"
)

// Results are all that a run has found out, as migration.json has it.
type Results struct {
	Machine machine.Machine `json:"machine"`
	Options Options         `json:"options"`
	Rows    []Row           `json:"rows"`
	Samples []Samples       `json:"samples"`
}

// Samples are raw numbers, in the order they were measured: for times in seconds.
type Samples struct {
	Figure string    `json:"figure"`
	Medium string    `json:"medium"`
	Lane   string    `json:"lane"`
	What   string    `json:"what"`
	Values []float64 `json:"values"`
}

// Row is one line of the table.
type Row struct {
	Figure string  `json:"figure"`
	Medium string  `json:"medium"`
	Lane   string  `json:"lane"`
	What   string  `json:"what"`
	Value  float64 `json:"value"`
	Unit   string  `json:"unit"`
	More   string  `json:"more,omitempty"` // what else there is to know, such as absolute numbers
	Goal   *Goal   `json:"goal,omitempty"`
}

// Goal is what a value should be. It is one of the file lane.
type Goal struct {
	Limit float64 `json:"limit"`
	Least bool    `json:"at_least"`
}

func atMost(limit float64) *Goal  { return &Goal{limit, false} }
func atLeast(limit float64) *Goal { return &Goal{limit, true} }

// missed says that there is a goal and the value is not within it.
func (r Row) missed() bool {
	return r.Goal != nil && (r.Goal.Least && r.Value < r.Goal.Limit || !r.Goal.Least && r.Value > r.Goal.Limit)
}

// with returns the row with other contents. A goal counts on the file lane only.
func (r Row) with(what string, value float64, unit, more string, g *Goal) Row {
	r.What, r.Value, r.Unit, r.More = what, value, unit, more
	if r.Goal = nil; r.Lane == "file" {
		r.Goal = g
	}
	return r
}

func writeHeader(w io.Writer) error {
	_, err := io.WriteString(w, "| figure | medium | lane | what | measured | goal | |\n|---|---|---|---|---|---|---|\n")
	return err
}

// write writes the row as Markdown.
func (r Row) write(w io.Writer) error {
	goal, more := "", r.More
	if r.Goal != nil {
		goal = "at most "
		if r.Goal.Least {
			goal = "at least "
		}
		goal += amount(r.Goal.Limit, r.Unit)
	}
	if r.missed() {
		goal += ", **missed**"
	}
	_, err := fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s | %s |\n", r.Figure, r.Medium, r.Lane, r.What, amount(r.Value, r.Unit), goal, more)
	return err
}

// amount words a number with three digits.
func amount(v float64, unit string) string {
	precision := 2
	switch {
	case v >= 100 || v <= -100:
		precision = 0
	case v >= 10 || v <= -10:
		precision = 1
	}
	text := strconv.FormatFloat(v, 'f', precision, 64)
	if unit == "" {
		return text
	}
	return text + " " + unit
}

// write makes the reports in the folder.
func (r *Results) write(folder string) error {
	raw, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	var table bytes.Buffer
	if err := r.writeTable(&table); err != nil {
		return err
	}
	return errors.Join(
		os.MkdirAll(folder, 0o755),
		os.WriteFile(filepath.Join(folder, "migration.json"), append(raw, '\n'), 0o644),
		os.WriteFile(filepath.Join(folder, "migration.md"), table.Bytes(), 0o644),
	)
}

func (r *Results) writeTable(w io.Writer) error {
	m, o := r.Machine, r.Options
	_, err := fmt.Fprintf(w, "# Migration\n\nMade by `go run ./bench migrate` at %s, flexnbd %s, %s; %s, %d CPUs (%s), %d MiB of memory. %d rounds; %d pauses of each kind. docs/performance.md says what the figures are.\n\n",
		m.Date.Format(time.RFC3339), m.Commit, m.Go, m.Kernel, m.CPUs, m.CPU, m.Memory/mib, o.Rounds, o.Samples)
	if err := errors.Join(err, writeHeader(w)); err != nil {
		return err
	}
	for _, row := range r.Rows {
		if err := row.write(w); err != nil {
			return err
		}
	}
	return nil
}
