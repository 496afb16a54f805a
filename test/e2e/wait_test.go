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
	deadline := time.Now().Add(patience)
	for pause := time.Millisecond; !state(); pause = min(2*pause, 50*time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain for this: %s", patience, what)
		}
		time.Sleep(pause)
	}
}
