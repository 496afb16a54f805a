// SPDX-License-Identifier: GPL-3.0-or-later

package bundle

import (
	"cmp"
	"fmt"
)

// Limits bound a bundle. They can be made narrower: a field that is zero or larger
// than what stands there means what stands there. [Bundle.Verify] has no others.
type Limits struct {
	Files int   // how many, the manifest and SHA256SUMS included; 64
	File  int64 // bytes of one; 256 MiB
	Total int64 // bytes of all; 512 MiB
}

const (
	defaultFiles = 64
	defaultFile  = 256 << 20
	defaultTotal = 512 << 20

	maxText = 64 << 10 // bytes of plugin.json, and of SHA256SUMS
)

func (l Limits) withDefaults() Limits {
	return Limits{
		Files: min(cmp.Or(l.Files, defaultFiles), defaultFiles),
		File:  min(cmp.Or(l.File, defaultFile), defaultFile),
		Total: min(cmp.Or(l.Total, defaultTotal), defaultTotal),
	}
}

// file is how large the file called name may be.
func (l Limits) file(name string) int64 {
	if name == ManifestFile || name == SumsFile {
		return min(maxText, l.File)
	}
	return l.File
}

// tally counts a bundle's files against its limits, before they are read.
type tally struct {
	Limits
	files int
	bytes int64
}

// add counts one more file, of so many bytes.
func (t *tally) add(name string, size int64) error {
	t.files++
	switch {
	case t.files > t.Files:
		return fmt.Errorf("%w: more than %d files", ErrTooLarge, t.Files)
	case size > t.file(name):
		return fmt.Errorf("%w: %s has %d bytes, and may have %d", ErrTooLarge, name, size, t.file(name))
	case size > t.Total-t.bytes:
		return fmt.Errorf("%w: more than %d bytes in all, with %s", ErrTooLarge, t.Total, name)
	}
	t.bytes += size
	return nil
}
