// SPDX-License-Identifier: GPL-3.0-or-later

package migrate

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestGoalsAreMissedOnTheWrongSideOnly(t *testing.T) {
	file := Row{Lane: "file"}
	for _, c := range []struct {
		row  Row
		want bool
	}{
		{file.with("", 1.1, "", "", atMost(1.1)), false},
		{file.with("", 1.11, "", "", atMost(1.1)), true},
		{file.with("", 50, "%", "", atLeast(50)), false},
		{file.with("", 49, "%", "", atLeast(50)), true},
		{file.with("", 1000, "", "", nil), false},
		{Row{Lane: "rpc"}.with("", 1000, "", "", atMost(1)), false},
	} {
		if have := c.row.missed(); have != c.want {
			t.Errorf("%v against %+v: missed is %v", c.row.Value, c.row.Goal, have)
		}
	}
}

func TestReportsAreWritten(t *testing.T) {
	var r Results
	r.Options.Rounds = 3
	row := Row{Figure: "dense", Medium: "tmpfs", Lane: "file"}
	r.Rows = []Row{row.with("time", 1.234, "", "1.2 s", atMost(1.1)), row.with("pause", 123.4, "ms", "", nil)}
	folder := filepath.Join(t.TempDir(), "new")
	if err := r.write(folder); err != nil {
		t.Fatal(err)
	}
	table, err := os.ReadFile(filepath.Join(folder, "migration.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"| dense | tmpfs | file | time | 1.23 | at most 1.10, **missed** | 1.2 s |\n",
		"| dense | tmpfs | file | pause | 123 ms |  |  |\n",
	} {
		if !strings.Contains(string(table), line) {
			t.Errorf("the table lacks %q:\n%s", line, table)
		}
	}
	raw, err := os.ReadFile(filepath.Join(folder, "migration.json"))
	if err != nil {
		t.Fatal(err)
	}
	var back Results
	if err := json.Unmarshal(raw, &back); err != nil || len(back.Rows) != 2 || *back.Rows[0].Goal != *r.Rows[0].Goal {
		t.Errorf("the raw results come back as %+v (%v)", back, err)
	}
	var empty bytes.Buffer
	if err := writeHeader(&empty); err != nil || strings.Count(empty.String(), "|") != 2*8 {
		t.Errorf("the header is %q (%v)", empty.String(), err)
	}
}
