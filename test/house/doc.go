// SPDX-License-Identifier: GPL-3.0-or-later

// Package house holds tests of the project's own rules, where no linter does:
// each source file names its licence, docs/dependencies.md lists what
// go.mod and tools/go.mod require, and PLUGINS.md shows the packaging that is tested. It
// has no code besides.
package house
