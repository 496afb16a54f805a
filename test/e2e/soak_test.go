// SPDX-License-Identifier: GPL-3.0-or-later

//go:build soak

package e2e

import (
	"strings"
	"testing"
	"time"
)

// The limit is the manual's, two minutes, and no option shortens it.
func TestSoakKillswitch(t *testing.T) {
	t.Parallel()
	for _, handshake := range []string{"newstyle", "oldstyle"} {
		t.Run(handshake, func(t *testing.T) {
			t.Parallel()
			h := serveHeld(t, "--killswitch", "--handshake", handshake)
			begin := time.Now()
			w := h.startWrite()
			if err := w.cmd.Wait(); err == nil {
				t.Error("a write that was never carried out has succeeded")
			}
			if took := time.Since(begin); took < 119*time.Second || took > 140*time.Second {
				t.Errorf("the client was disconnected after %v, want 120 s", took)
			}
			if !strings.Contains(h.log.String(), "client disconnected, since one of its requests takes too long command=WRITE offset=4096") {
				t.Errorf("the log does not say so:\n%s", h.log.String())
			}
			// Its place is free once the backend has let go of the request.
			h.release()
			eventually(t, "the client is counted off", func() bool { return h.state()["num_clients"] == "0" })
		})
	}
}
