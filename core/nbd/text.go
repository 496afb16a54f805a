// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

import (
	"strings"
	"unicode/utf8"
)

// MaxString is the longest string the protocol allows, in bytes
// ("Conventions").
const MaxString = 4096

// CheckString returns nil for a string that may travel: valid UTF-8, at most
// MaxString bytes, no NUL. Otherwise the error wraps ErrMalformed; what names
// the string in it.
func CheckString(what, s string) error {
	switch {
	case len(s) > MaxString:
		return malformed("%s is %d bytes long, the protocol allows %d", what, len(s), MaxString)
	case strings.IndexByte(s, 0) >= 0:
		return malformed("%s contains a NUL byte", what)
	case !utf8.ValidString(s):
		return malformed("%s is not valid UTF-8", what)
	}
	return nil
}

// parseString copies a string out of b after checking it.
func parseString(what string, b []byte) (string, error) {
	if len(b) > MaxString {
		return "", malformed("%s is %d bytes long, the protocol allows %d", what, len(b), MaxString)
	}
	s := string(b)
	return s, CheckString(what, s)
}

// clipMessage shortens a text of our own to what fits into an error reply,
// without cutting a character in two.
func clipMessage(msg string) string {
	if len(msg) <= MaxString {
		return msg
	}
	end := MaxString
	for end > 0 && !utf8.RuneStart(msg[end]) {
		end--
	}
	return msg[:end]
}
