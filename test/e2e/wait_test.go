// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"testing"
	"time"
)

// patience is how long to wait for what should come soon, on a busy machine.
const patience = 30 * time.Second

// eventually waits until state holds.
func eventually(t testing.TB, what string, state func() bool) {
	t.Helper()
	if !soon(state) {
		t.Fatalf("waited %v in vain for this: %s", patience, what)
	}
}

// soon waits until state holds, and says whether it did.
func soon(state func() bool) bool {
	deadline := time.Now().Add(patience)
	for pause := time.Millisecond; !state(); pause = min(2*pause, 50*time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(pause)
	}
	return true
}
