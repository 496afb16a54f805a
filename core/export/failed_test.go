// SPDX-License-Identifier: GPL-3.0-or-later

package export

import "testing"

func TestNothingIsKnownToBeZeroAfterAFailure(t *testing.T) {
	s := newTestStore(4 * regionSize)
	e := serve(t, s)
	c := e.connect(t)
	if c.reaches(s) {
		t.Fatal("the zeroes are not known to begin with")
	}
	e.Failed()
	if !c.reaches(s) {
		t.Error("zeroes of a disk that is gone are read")
	}
}
