// SPDX-License-Identifier: GPL-3.0-or-later

package check

import (
	"fmt"
	"strings"
	"time"
)

// Result says how one clause ended: it holds where Err is nil and Skipped is empty.
type Result struct {
	Part    string // the package comment has them
	Name    string
	Says    string // where the contract says so, and what it says
	Err     error  // what was wrong
	Skipped string // why the clause was not checked
	Took    time.Duration
}

// Path names the clause among all: "lane rpc/WritesReadBack".
func (r Result) Path() string { return r.Part + "/" + r.Name }

// String is a line for people; a failure takes several.
func (r Result) String() string {
	switch took := r.Took.Round(time.Millisecond); {
	case r.Skipped != "":
		return fmt.Sprintf("left out  %s: %s", r.Path(), r.Skipped)
	case r.Err != nil:
		what := strings.ReplaceAll(r.Err.Error(), "\n", "\n          ")
		return fmt.Sprintf("FAILED    %s (%v):\n          %s\n          the contract says: %s", r.Path(), took, what, r.Says)
	default:
		return fmt.Sprintf("ok        %s (%v)", r.Path(), took)
	}
}
