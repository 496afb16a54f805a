// SPDX-License-Identifier: GPL-3.0-or-later

package bundle

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Compatible returns nil if this plugin can be used, else an [ErrIncompatible]
// that says why not and what would help. coreVersion is flexnbd's own version,
// protocols are the major versions of the wire that it speaks, platform is
// what it runs on, as in "linux/amd64".
//
// Of a version only its three numbers count: "0.1.0-dev" and what git describes as
// "v0.1.0-12-g52e544f" are as good as 0.1.0. A coreVersion without three numbers,
// such as "devel" or a commit, is somebody's own build, of which nothing can be
// said: every min_core is fine then.
func (m Manifest) Compatible(coreVersion string, protocols []int, platform string) error {
	if !slices.Contains(m.Platforms, platform) {
		return fmt.Errorf("%w: %s is for %s, and this is %s: get its bundle for %s",
			ErrIncompatible, m, strings.Join(m.Platforms, ", "), platform, platform)
	}
	if core, ok := release(coreVersion); ok && m.MinCore != "" {
		if least, _ := release(m.MinCore); slices.Compare(core[:], least[:]) < 0 {
			return fmt.Errorf("%w: %s needs flexnbd %s, and this is %s: upgrade flexnbd, or get an older version of the plugin",
				ErrIncompatible, m, m.MinCore, coreVersion)
		}
	}
	if slices.ContainsFunc(m.ProtocolVersions, func(v int) bool { return slices.Contains(protocols, v) }) {
		return nil
	}
	what := "upgrade flexnbd, or get an older version of the plugin"
	if len(protocols) > 0 && slices.Max(m.ProtocolVersions) < slices.Min(protocols) {
		what = "get a newer version of the plugin"
	}
	return fmt.Errorf("%w: %s speaks version %s of the plugin protocol, and this flexnbd %s: %s",
		ErrIncompatible, m, numbers(m.ProtocolVersions), numbers(protocols), what)
}

// release finds the three numbers at the start of a version, with or without a "v".
func release(version string) (r [3]uint64, ok bool) {
	version = strings.TrimPrefix(version, "v")
	if end := strings.IndexAny(version, "-+~"); end >= 0 {
		version = version[:end]
	}
	parts := strings.Split(version, ".")
	if len(parts) != len(r) {
		return r, false
	}
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, 32)
		if err != nil {
			return r, false
		}
		r[i] = n
	}
	return r, true
}

// isRelease says whether a min_core can be compared. What follows the numbers has
// to be as in a version, as it is shown to people.
func isRelease(version string) bool {
	_, ok := release(version)
	return ok && word(version, ".+~-")
}

func numbers(versions []int) string {
	if len(versions) == 0 {
		return "none"
	}
	words := make([]string, len(versions))
	for i, v := range slices.Sorted(slices.Values(versions)) {
		words[i] = strconv.Itoa(v)
	}
	return strings.Join(words, ", ")
}
