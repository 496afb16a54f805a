// SPDX-License-Identifier: GPL-3.0-or-later

//go:build !soak

package crash

// In the handshakes of later connections, where a cut costs a second, every so
// manieth byte is enough for a test that runs often.
const (
	cutStep      = 7
	cutScenarios = 6
)
