// SPDX-License-Identifier: GPL-3.0-or-later

// Package bundle packs, checks and installs plugins: a binary with what has to
// come along with it, as a packager makes it and an operator gets it.
//
//	b, err := bundle.Install("flexnbd-backend-memory_1.0_linux_amd64.tar.gz",
//		"/usr/local/lib/flexnbd/plugins", bundle.InstallOptions{
//			Check: func(b *bundle.Bundle) error {
//				return b.Manifest.Compatible(version, []int{wire.ProtocolVersion}, "linux/amd64")
//			},
//		})
//	defer b.Close()
//	exe, err := b.OpenExecutable() // its digest is right; run it by its descriptor
//
// and for whoever makes one:
//
//	b, err := bundle.Build("dist/flexnbd-backend-memory", manifest, map[string]string{
//		"flexnbd-backend-memory":   "bin/flexnbd-backend-memory",
//		"LICENSE":                  "LICENSE",
//		"flexnbd-backend-memory.7": "docs/flexnbd-backend-memory.7",
//	})
//	err = bundle.Pack(file, b, time.Time{}) // file is called bundle.FileName(manifest)
//
// # What a bundle is
//
// A flat folder, or a gzipped tarball of one:
//
//	flexnbd-backend-memory/
//	    flexnbd-backend-memory     the binary; the manifest says what it is called
//	    plugin.json                the manifest: what this is, and what it needs
//	    SHA256SUMS                 as sha256sum writes it; every file but itself
//	    LICENSE                    and a manual page, and what else there is to read
//
// Installed it is the same folder inside a plugin folder. Nothing is fetched from
// a network, registered or run at that: the files are there, or they are not.
// So a distribution's package may as well put them there, and `sha256sum -c` checks
// them.
//
// # What is promised
//
// [Open] and what follows it read files of that folder only: no symbolic link is
// followed, and nothing that is not a regular file is read. [Bundle.Verify] finds
// every file that is missing, changed or too many.
//
// [Install] prepares everything in a folder `.install-XXXX` beside, which is then
// renamed, or exchanged with the old one, in one step. Whoever looks sees the old
// bundle or the new one, also after a power cut; and if anything fails, what there
// was before. [Uninstall] renames to `.remove-XXXX` first. What a killed process
// has left over of these is removed by a later Install.
//
// A plugin that is running goes on running while its bundle is replaced or
// removed: the process keeps its file open, which is gone only when it ends. But a
// plugin that flexnbd starts anew, after a crash, is the one in the folder by then.
//
// # What is not
//
// The digests lie beside the files. They show damage, a copy that ended early,
// files of two versions; not an enemy, who would write new digests as well. Who
// could have written there is what core/host checks before it runs a plugin, and
// where a tarball came from is the packager's and operator's matter.
//
// This package runs nothing. Whether the binary says the same of itself as the
// manifest, the caller finds out in [InstallOptions].Check.
//
// # Concurrency
//
// All functions may run at the same time, in one process or several, in the same
// plugin folder. No lock is waited for: of two that install the same plugin one
// fails, or with Replace the later one wins. A Bundle may be used by many goroutines.
package bundle
