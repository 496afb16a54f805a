// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/http"
	"strings"
	"time"
)

// version tells one state of an image from another, by what the server says of it.
type version struct {
	etag     string // a strong one, or empty
	modified string // Last-Modified as it stands, or empty
	settled  bool   // modified so long ago that the same second can't hold another change
}

func versionOf(h http.Header) version {
	v := version{etag: h.Get("ETag"), modified: h.Get("Last-Modified")}
	if !strings.HasPrefix(v.etag, `"`) { // W/"...": the bytes may differ
		v.etag = ""
	}
	modified, err := http.ParseTime(v.modified)
	if err != nil {
		v.modified = ""
		return v
	}
	now, err := http.ParseTime(h.Get("Date"))
	v.settled = err == nil && now.Sub(modified) >= time.Second
	return v
}

// isKnown says whether there is anything to tell versions apart by.
func (v version) isKnown() bool { return v.etag != "" || v.modified != "" }

// isSame says whether other is the same state. A strong ETag decides; servers behind
// one name may well differ in the date.
func (v version) isSame(other version) bool {
	if v.etag != "" {
		return v.etag == other.etag
	}
	return v.modified == other.modified
}

// ifRange is the condition under which the server is to send a part. RFC 9110, 13.1.5,
// does not allow a date that may be ambiguous; then the answer is compared, and
// nothing else.
func (v version) ifRange() string {
	switch {
	case v.etag != "":
		return v.etag
	case v.settled:
		return v.modified
	}
	return ""
}

func (v version) String() string {
	switch {
	case v.etag != "":
		return "ETag " + v.etag
	case v.modified != "":
		return "Last-Modified " + v.modified
	}
	return "no strong ETag and no Last-Modified"
}
