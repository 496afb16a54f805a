// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// keySize is what a key file holds, in bytes.
const keySize = 64

// howToMakeKey ends an error about a key file that is none. A new key is no help to
// an image that has one, so it says for what.
const howToMakeKey = "correct the path, or for a new image make a key with: head -c 64 /dev/urandom > key; chmod 600 key"

// key is the secret in a key file. Nothing is encrypted with it: each image has
// keys of its own, derived from the secret and the image's salt. So one key file
// does for many images, and equal plaintext looks different in each.
type key [keySize]byte

// readKey reads the key file at path: 64 bytes, or 128 hexadecimal digits and
// perhaps a newline. Nobody but its owner may have access to it.
func readKey(path string) (key, error) {
	f, err := openRegular("key file", path, os.O_RDONLY)
	if err != nil {
		return key{}, fmt.Errorf("%w; %s", err, howToMakeKey)
	}
	defer func() { _ = f.Close() }()
	// The mode of what was opened, not of what the path leads to by now.
	st, err := f.Stat()
	if err != nil {
		return key{}, fmt.Errorf("key file %s: looking at its mode: %w", path, err)
	}
	if mode := st.Mode().Perm(); mode&0o077 != 0 {
		return key{}, fmt.Errorf("key file %s can be used by others than its owner (mode %#o): chmod 600 it, and if others may have read it, make a new key and a new image: %w",
			path, mode, store.ErrInvalid)
	}
	content, err := io.ReadAll(io.LimitReader(f, 2*keySize+3)) // one more than the longest that will do
	if err != nil {
		return key{}, fmt.Errorf("key file %s: reading it: %w", path, err)
	}
	k, err := parseKey(content)
	if err != nil {
		return key{}, fmt.Errorf("key file %s %w: %w; %s", path, err, store.ErrInvalid, howToMakeKey)
	}
	return k, nil
}

// parseKey takes the content of a key file. Its errors go on after the file's
// name, and show nothing of the content.
func parseKey(content []byte) (k key, err error) {
	digits := strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r")
	switch {
	case len(content) == keySize:
		copy(k[:], content)
	case len(digits) == 2*keySize:
		if _, err := hex.Decode(k[:], []byte(digits)); err != nil {
			return key{}, errors.New("has 128 characters, but not all are hexadecimal digits")
		}
	case len(content) > 2*keySize+2:
		return key{}, errors.New("is too long for 64 bytes or 128 hexadecimal digits")
	default:
		return key{}, fmt.Errorf("has %d bytes, not 64 or 128 hexadecimal digits", len(content))
	}
	// Chance does not do this; a file of zeroes does.
	if bytes.Equal(k[:keySize/2], k[keySize/2:]) {
		return key{}, errors.New("repeats its first half, so it is not random")
	}
	return k, nil
}

// Of what derive makes, by purpose. The version of the header is part of both, so
// that another version can't come to use these keys in another way.
const (
	forData  = "flexnbd-backend-xts 1: data"  // the 64 bytes of XTS-AES-256
	forCheck = "flexnbd-backend-xts 1: check" // the HMAC in the header
)

// derive makes the key of size bytes for one purpose in the image with that salt.
func (k key) derive(salt [saltSize]byte, purpose string, size int) ([]byte, error) {
	derived, err := hkdf.Key(sha256.New, k[:], salt[:], purpose, size)
	if err != nil { // only in FIPS mode, or for a size that is too large
		return nil, fmt.Errorf("deriving the key for %q: %w", purpose, err)
	}
	return derived, nil
}
