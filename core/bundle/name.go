// SPDX-License-Identifier: GPL-3.0-or-later

package bundle

import (
	"strings"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

// Files that each bundle has.
const (
	ManifestFile = "plugin.json"
	SumsFile     = "SHA256SUMS"
)

// maxName is how long a file's name may be, in bytes. With a folder's name in
// front it fits a ustar header.
const maxName = 100

// FolderName is what a bundle's folder is called, in a tarball and in a plugin
// folder. A plugin that is a plain file has the same name.
func FolderName(kind wire.Kind, name string) string {
	return "flexnbd-" + kind.String() + "-" + name
}

// FileName is what the bundle's tarball is called: FOLDER_VERSION_OS_ARCH.tar.gz.
// None of these has a "_" in it. A bundle for several platforms, which has no
// machine code then, says "all" where they differ. m has passed [Manifest.Check].
func FileName(m Manifest) string {
	os, arch := "", ""
	for i, platform := range m.Platforms {
		o, a, _ := strings.Cut(platform, "/")
		if i == 0 {
			os, arch = o, a
		}
		if o != os {
			os = "all"
		}
		if a != arch {
			arch = "all"
		}
	}
	return strings.Join([]string{m.Folder(), m.Version, os, arch}, "_") + ".tar.gz"
}

// plain says whether name can be a file of a bundle: 1 to 100 of a-z, A-Z, 0-9
// and "._+~-", the first of which is a letter or a digit. So no name leads out of
// a folder, hides, looks like an option, or needs quotes in a shell or in
// SHA256SUMS.
func plain(name string) bool {
	return len(name) <= maxName && word(name, "._+~-")
}

// word says whether s begins with a letter or a digit and goes on with these and
// the characters of also.
func word(s, also string) bool {
	for i, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && (i == 0 || strings.IndexByte(also, c) < 0) {
			return false
		}
	}
	return s != ""
}
