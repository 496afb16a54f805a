// SPDX-License-Identifier: Apache-2.0

package align

// run is the bytes from start up to, not including, end.
type run struct{ start, end int64 }

func (r run) empty() bool { return r.start >= r.end }
func (r run) len() int64  { return r.end - r.start }
