// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	// headerSize is where the disk begins in the image, in bytes: one sector, so
	// that the disk's sectors are aligned in the file as they are on the disk.
	headerSize = sectorSize

	magic     = "FLEXNBD-XTS-DISK"
	version   = 1
	saltSize  = 32
	checkSize = sha256.Size

	versionAt = len(magic)
	saltAt    = versionAt + 4
	checkAt   = saltAt + saltSize
	headerEnd = checkAt + checkSize // from here on, zeroes up to headerSize
)

var (
	errNoHeader     = errors.New("has no header of an encrypted disk")
	errHeaderBroken = errors.New("has a damaged header: bytes that have to be 0 are not")
)

// header is the start of an image:
//
//	 0  magic    "FLEXNBD-XTS-DISK"
//	16  version  1, big-endian
//	20  salt     32 random bytes
//	52  check    HMAC-SHA256 of all that is before it
//	84  zeroes   up to 4096
//
// The HMAC's key is derived from that in the key file, so only the right key
// gives the right check. The size of the disk is not part of it: the image may be
// made larger.
type header struct {
	salt  [saltSize]byte
	check [checkSize]byte
}

// newHeader makes the header of a new image for k.
func newHeader(k key) (h header, err error) {
	_, _ = rand.Read(h.salt[:]) // never fails
	h.check, err = h.checkFor(k)
	return h, err
}

// encode returns the header's sector.
func (h header) encode() []byte {
	p := make([]byte, headerSize)
	copy(p, magic)
	binary.BigEndian.PutUint32(p[versionAt:], version)
	copy(p[saltAt:], h.salt[:])
	copy(p[checkAt:], h.check[:])
	return p
}

// decodeHeader takes a header's sector apart. It does not know the key, so it
// can't say whether the check is right. Its errors go on after the image's name;
// where there is no header at all it is [errNoHeader].
func decodeHeader(p []byte) (h header, err error) {
	if len(p) != headerSize || string(p[:len(magic)]) != magic {
		return header{}, errNoHeader
	}
	if v := binary.BigEndian.Uint32(p[versionAt:]); v != version {
		return header{}, fmt.Errorf("is of version %d, and this backend knows version %d only", v, version)
	}
	if !allZero(p[headerEnd:]) {
		return header{}, errHeaderBroken
	}
	copy(h.salt[:], p[saltAt:])
	copy(h.check[:], p[checkAt:])
	return h, nil
}

// belongsTo says whether the header was made with k.
func (h header) belongsTo(k key) (bool, error) {
	want, err := h.checkFor(k)
	return err == nil && hmac.Equal(h.check[:], want[:]), err
}

// checkFor is what check has to be, given the salt.
func (h header) checkFor(k key) (check [checkSize]byte, err error) {
	secret, err := k.derive(h.salt, forCheck, checkSize)
	if err != nil {
		return check, err
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write(h.encode()[:checkAt])
	return [checkSize]byte(mac.Sum(nil)), nil
}

func allZero(p []byte) bool { return bytes.Count(p, []byte{0}) == len(p) }
