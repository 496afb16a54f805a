// SPDX-License-Identifier: GPL-3.0-or-later

//go:build !failpoints

package main

import "github.com/flexnbd/flexnbd/core/control"

// testVerbs are none: see attempt_on.go.
func testVerbs() map[string]control.Verb { return nil }
