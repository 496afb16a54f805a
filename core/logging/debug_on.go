// SPDX-License-Identifier: GPL-3.0-or-later

//go:build debug

package logging

// debugLines says whether this build has D lines. It is a constant so that the
// compiler leaves them out.
const debugLines = true
