// SPDX-License-Identifier: GPL-3.0-or-later

package failpoint

import "slices"

// points are all the points that there are, by package and in the order in which
// a migration comes to them. A new one is added here first.
var points = []string{
	// core/mirror, the source.
	"source-connected",
	"source-hello-answered",
	"source-copying",
	"source-next-written",
	"source-held",
	"source-drained",
	"source-before-prepare",
	"source-prepare-answered",
	"source-before-rename",
	"source-renamed",   // the rename is done, its directory not yet synced
	"source-committed", // synced, the listening socket still open
	"source-before-commit",
	"source-commit-sent",
	"source-commit-answered",
	"source-acknowledged",
	"source-before-unlink",
	"source-unlinked",

	// core/mirror, the destination.
	"destination-hello",
	"destination-first-data",
	"destination-withdrawn",
	"destination-prepare",
	"destination-flushed",
	"destination-prepared", // the record is durable, the reply not sent
	"destination-commit",
	"destination-renamed", // the rename is done, its directory not yet synced
	"destination-owned",   // durable, not acknowledged
	"destination-acknowledged",
	"destination-before-rebind",
	"destination-rebound",

	// core/owner, in the writing of each record.
	"owner-written",
	"owner-synced",
	"owner-renamed",
	"owner-dir-synced",
}

// Points returns the names of all points, those of a package in the order in which
// a migration comes to them. They are the same with and without the build tag, so
// that a test that is built without it can choose among them.
func Points() []string { return slices.Clone(points) }
