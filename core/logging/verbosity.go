// SPDX-License-Identifier: GPL-3.0-or-later

package logging

import (
	"fmt"

	"github.com/hashicorp/go-hclog"
)

// Verbosity says which lines are written.
type Verbosity uint8

// From least to most. The zero value is Default.
const (
	Default Verbosity = iota // W, E and F
	Quiet                    // F only
	Verbose                  // all: from I upwards, and D in a debug build
)

// threshold is the lowest hclog level that v lets through.
func (v Verbosity) threshold() hclog.Level {
	switch v {
	case Quiet:
		return hclog.Off
	case Default:
		return hclog.Warn
	case Verbose:
		if debugLines {
			return hclog.Trace
		}
		return hclog.Info
	}
	panic(fmt.Sprintf("logging: verbosity %d does not exist", v))
}
