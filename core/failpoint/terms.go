// SPDX-License-Identifier: GPL-3.0-or-later

//go:build failpoints

package failpoint

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// term is the part of gofail's language that may be used: counts and chances in
// front, then an action. The submatch is the value of a return. gofail wants a
// point in a percentage.
var term = regexp.MustCompile(`^(?:[0-9]{1,9}\*|[0-9]{1,3}\.[0-9]{1,6}%)*(?:off|panic|sleep\([0-9]{1,9}\)|return\("([^"\\=;]+)"\))$`)

// checkTerms refuses what gofail would pass over, and actions that Hit does not know.
func checkTerms(all string) error {
	for assignment := range strings.SplitSeq(all, ";") {
		if assignment == "" {
			continue
		}
		name, terms, _ := strings.Cut(assignment, "=")
		if !slices.Contains(points, name) {
			return fmt.Errorf("there is no point %q; the points are %s", name, strings.Join(points, ", "))
		}
		for t := range strings.SplitSeq(terms, "->") {
			if err := checkTerm(t); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

func checkTerm(t string) error {
	m := term.FindStringSubmatch(t)
	if m == nil {
		return fmt.Errorf(`can't read %q; write off, panic, sleep(MILLISECONDS) or return("ACTION"), with counts (3*) or chances (1.0%%) in front`, t)
	}
	action := m[1]
	if action == "" || action == "kill" || action == "stop" {
		return nil
	}
	errno, text, isError := injected(action)
	switch {
	case !isError || text == "":
		return fmt.Errorf(`there is no action %q; write kill, stop, error:ENOSPC or error:TEXT`, action)
	case errno == 0 && errnoName.MatchString(text):
		return fmt.Errorf("there is no errno %s", text)
	}
	return nil
}

// errnoName is what would be meant as the name of an errno.
var errnoName = regexp.MustCompile(`^E[A-Z0-9]+$`)

// injected reads the action error:TEXT. errno is 0 when the text names none.
func injected(action string) (errno syscall.Errno, text string, isError bool) {
	text, isError = strings.CutPrefix(action, "error:")
	if !isError || !errnoName.MatchString(text) {
		return 0, text, isError
	}
	for e := syscall.Errno(1); e < maxErrno; e++ {
		if unix.ErrnoName(e) == text {
			return e, text, true
		}
	}
	return 0, text, true
}

// maxErrno is where the kernel's numbers of errors end.
const maxErrno = 4096
