// SPDX-License-Identifier: GPL-3.0-or-later

package bundle

import (
	"errors"
	"fmt"
	"strings"
)

// Errors that callers tell apart, with errors.Is. Each is wrapped in one that says
// which bundle and what to do.
var (
	// ErrNotBundle: this is no bundle, or not the one that its name says.
	ErrNotBundle = errors.New("no plugin bundle")
	// ErrMalformed: a manifest, SHA256SUMS or a tarball is not as it has to be.
	ErrMalformed = errors.New("malformed bundle")
	// ErrTooLarge: more than [Limits] allow.
	ErrTooLarge = errors.New("too large for a bundle")
	// ErrTampered: files are not what SHA256SUMS says.
	ErrTampered = errors.New("not what SHA256SUMS says")
	// ErrIncompatible: made for another flexnbd or another machine.
	ErrIncompatible = errors.New("incompatible plugin")
	// ErrInstalled: the plugin is there already, in this version or another.
	ErrInstalled = errors.New("already installed")
	// ErrNotInstalled: there is nothing to uninstall.
	ErrNotInstalled = errors.New("not installed")
)

// TamperedError says which files of a bundle are not what its SHA256SUMS says. It
// is an [ErrTampered].
type TamperedError struct {
	Dir       string
	Changed   []string // another digest
	Missing   []string // listed and not there
	Extra     []string // there and not listed
	Irregular []string // listed and no regular file
}

// Is says that this is an ErrTampered.
func (*TamperedError) Is(target error) bool { return target == ErrTampered }

func (e *TamperedError) Error() string {
	var parts []string
	for _, p := range []struct {
		what  string
		files []string
	}{
		{"changed", e.Changed},
		{"missing", e.Missing},
		{"not listed", e.Extra},
		{"not a regular file", e.Irregular},
	} {
		if len(p.files) > 0 {
			parts = append(parts, p.what+": "+names(p.files))
		}
	}
	return fmt.Sprintf("bundle %s is %v (%s): get it anew; if it is installed, install that with --replace", e.Dir, ErrTampered, strings.Join(parts, "; "))
}

func (e *TamperedError) empty() bool {
	return len(e.Changed)+len(e.Missing)+len(e.Extra)+len(e.Irregular) == 0
}

// names lists file names, of which those that nobody checked are quoted.
func names(files []string) string {
	shown := make([]string, len(files))
	for i, f := range files {
		if shown[i] = f; !plain(f) {
			shown[i] = fmt.Sprintf("%.120q", f)
		}
	}
	return strings.Join(shown, ", ")
}
