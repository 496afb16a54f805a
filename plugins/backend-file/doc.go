// SPDX-License-Identifier: GPL-3.0-or-later

// Package file is the stock backend for images in regular files.
//
// A plugin's main hands [Plugin] to the SDK; nothing else in here needs to be
// known. To use the backend in process:
//
//	disk, err := file.Open(ctx, "/srv/images/web1.img", false)
//
// The location is the path of an image; symbolic links are followed. The image
// has to exist and is served with the exact size it has. It is never created,
// never resized, and locked while it is served: one writer, or any number of
// read-only servers. Package fdstore does the rest.
//
// A block device is refused, since it takes more care than a file: there is a
// backend of its own for those.
package file
