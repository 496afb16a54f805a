// SPDX-License-Identifier: GPL-3.0-or-later

package logging

import (
	"path"
	"runtime"
	"strings"
)

// between lists the packages that may stand between the code that speaks and
// this package: ourselves, and the libraries that call a Logger for others.
var between = [...]string{
	"github.com/flexnbd/flexnbd/core/logging.",
	"github.com/flexnbd/flexnbd/core/check.(*witness).",
	"github.com/hashicorp/go-hclog.",
	"log.",
}

// findCaller walks up to the first frame of the code that speaks.
func findCaller() (file string, line int) {
	var pcs [16]uintptr
	n := runtime.Callers(3, pcs[:]) // Callers, findCaller and write are known
	frames := runtime.CallersFrames(pcs[:n])
	for {
		frame, more := frames.Next()
		if frame.File != "" && !isBetween(frame.Function) {
			return path.Base(frame.File), frame.Line
		}
		if !more {
			return "unknown", 0
		}
	}
}

func isBetween(function string) bool {
	for _, prefix := range between {
		if strings.HasPrefix(function, prefix) {
			return true
		}
	}
	return false
}
