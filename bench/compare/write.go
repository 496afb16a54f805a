// SPDX-License-Identifier: GPL-3.0-or-later

package compare

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// write makes the reports in the folder.
func (r *Results) write(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	return errors.Join(
		r.writeJSON(filepath.Join(folder, "results.json")),
		r.writeText(filepath.Join(folder, "results.txt")),
		r.writePlots(folder),
	)
}

func (r *Results) writeJSON(file string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}

// howToRead stands in front of the numbers.
const howToRead = `
A ratio is the median, over all rounds, of the ratio of two servers within a round.
The best peer of a scenario is the one with the highest median rate in it. CPU is the
CPU time per request, of all the server's processes, divided by that of the peer that
takes the least. In the tables below, /best is a server's rate divided by the best
peer's, and /least its CPU time per request divided by the least of a peer. Latencies
are of all rounds together. Memory (PSS) is that of all the server's processes with the
scenario's connections open, the median of what it was at the ends of the slices.
`

func (r *Results) writeText(file string) error {
	var b bytes.Buffer
	if err := errors.Join(r.writePreface(&b), r.writeRatios(&b)); err != nil {
		return err
	}
	medium := ""
	for _, t := range r.Tables {
		if t.Medium != medium {
			medium = t.Medium
			if err := writeHeader(&b); err != nil {
				return err
			}
		}
		if err := writeRows(&b, t); err != nil {
			return err
		}
	}
	return os.WriteFile(file, b.Bytes(), 0o644)
}

// writePreface says where the numbers come from.
func (r *Results) writePreface(w io.Writer) error {
	m, o := r.Machine, r.Options
	var b strings.Builder
	fmt.Fprintf(&b, "Made by \"go run ./bench compare\" at %s, flexnbd %s, %s.\n", m.Date.Format(time.RFC3339), m.Commit, m.Go)
	fmt.Fprintf(&b, "%s, %d CPUs (%s), %d MiB of memory.\n", m.Kernel, m.CPUs, m.CPU, m.Memory/mib)
	fmt.Fprintf(&b, "%d rounds of %v; an image of %d MiB; structured replies: %v.\n\n", o.Rounds, o.Slice, o.Size/mib, o.Structured)
	for _, s := range r.Servers {
		fmt.Fprintf(&b, "%-18s %s\n%-18s %s\n", s.Name, s.Version, "", strings.Join(s.Command, " "))
	}
	b.WriteString("\n")
	for _, medium := range media {
		fmt.Fprintf(&b, "%-9s %s\n", medium.name, medium.about)
	}
	b.WriteString(howToRead + "\n")
	_, err := io.WriteString(w, b.String())
	return err
}
