// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strconv"
	"strings"
)

// contentRange is what an answer says it holds (RFC 9110, 14.4): the bytes from first
// to last, both included, of size in all. In an answer that holds none of them
// (416), first is 0 and last is -1.
type contentRange struct{ first, last, size int64 }

func (r contentRange) String() string {
	if r.last < r.first {
		return fmt.Sprintf("bytes */%d", r.size)
	}
	return fmt.Sprintf("bytes %d-%d/%d", r.first, r.last, r.size)
}

// parseContentRange reads the header. It takes no answer that leaves the size open.
func parseContentRange(header string) (contentRange, error) {
	unit, rest, _ := strings.Cut(header, " ")
	span, total, ok := strings.Cut(rest, "/")
	if !ok || !strings.EqualFold(unit, "bytes") {
		return contentRange{}, fmt.Errorf("Content-Range %.100q is not of the form \"bytes 0-99/1000\"", header)
	}
	r := contentRange{last: -1}
	if r.size, ok = decimal(total); !ok {
		return contentRange{}, fmt.Errorf("Content-Range %.100q does not say how large the image is", header)
	}
	if span == "*" {
		return r, nil
	}
	first, last, _ := strings.Cut(span, "-")
	var fine bool
	r.first, ok = decimal(first)
	r.last, fine = decimal(last)
	if !ok || !fine || r.first > r.last || r.last >= r.size {
		return contentRange{}, fmt.Errorf("Content-Range %.100q is impossible", header)
	}
	return r, nil
}

// decimal reads digits and nothing else, up to 2^63-1.
func decimal(s string) (n int64, ok bool) {
	u, err := strconv.ParseUint(s, 10, 63)
	return int64(u), err == nil
}
