// SPDX-License-Identifier: GPL-3.0-or-later

package owner

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
)

// ID names one attempt of one migration: 128 random bits. Who knows the id that a
// destination is prepared for can make it take over, so ids are not for everybody
// to read. The zero ID stands for none.
type ID [16]byte

// NewID makes one that nobody else has.
func NewID() ID {
	var id ID
	for id.IsZero() {
		_, _ = rand.Read(id[:]) // never fails: it ends the program instead
	}
	return id
}

// ParseID reads 32 hexadecimal digits, in either case. An id of zeroes is refused.
func ParseID(text string) (ID, error) {
	var id ID
	if len(text) != hex.EncodedLen(len(id)) {
		return ID{}, fmt.Errorf("%.64q is no migration id: it must be 32 hexadecimal digits", text)
	}
	if _, err := hex.Decode(id[:], []byte(text)); err != nil {
		return ID{}, fmt.Errorf("%q is no migration id: it must be 32 hexadecimal digits", text)
	}
	if id.IsZero() {
		return ID{}, fmt.Errorf("%q is no migration id: zeroes stand for none", text)
	}
	return id, nil
}

// IsZero says whether id stands for none.
func (id ID) IsZero() bool { return id == ID{} }

// String is 32 hexadecimal digits, in lower case.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText is String.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText is ParseID.
func (id *ID) UnmarshalText(text []byte) error {
	parsed, err := ParseID(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}
