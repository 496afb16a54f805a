// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/store"
)

func TestKeyFileIsBytesOrDigits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	want := randomBytes(keySize)
	digits := hex.EncodeToString(want)
	for _, content := range []string{
		string(want), digits, strings.ToUpper(digits), digits + "\n", digits + "\r\n",
	} {
		writeFile(t, path, []byte(content), 0o600)
		got, err := readKey(path)
		if err != nil {
			t.Fatalf("a key file of %d bytes: %v", len(content), err)
		}
		if !bytes.Equal(got[:], want) {
			t.Fatalf("a key file of %d bytes gave another key", len(content))
		}
	}
}

func TestKeyFileOpenToOthersIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o666, 0o777} {
		writeFile(t, path, randomBytes(keySize), mode)
		_, err := readKey(path)
		wantError(t, err, store.ErrInvalid, path, "chmod 600")
	}
	writeFile(t, path, randomBytes(keySize), 0o400)
	if _, err := readKey(path); err != nil {
		t.Error(err)
	}
}

func TestKeyFileOfAnotherFormIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	random := string(randomBytes(keySize))
	digits := hex.EncodeToString([]byte(random))
	for content, word := range map[string]string{
		"":                                 "has 0 bytes",
		random[:32]:                        "has 32 bytes",
		random + "\n":                      "has 65 bytes",
		digits[:127]:                       "has 127 bytes",
		digits[:127] + "g":                 "hexadecimal",
		digits + "\n\n":                    "has 130 bytes",
		digits + digits:                    "too long",
		strings.Repeat("\x00", keySize):    "not random",
		random[:32] + random[:32]:          "not random",
		strings.Repeat("0", 2*keySize):     "not random",
		strings.Repeat("\x00", 2*keySize):  "hexadecimal",
		strings.Repeat("0", 2*keySize+100): "too long",
	} {
		writeFile(t, path, []byte(content), 0o600)
		_, err := readKey(path)
		wantError(t, err, store.ErrInvalid, path, word, "/dev/urandom")
		if len(content) > 0 && strings.Contains(err.Error(), content) {
			t.Errorf("the error shows the key: %v", err)
		}
	}
	_, err := readKey(path + ".missing")
	wantError(t, err, syscall.ENOENT, path+".missing", "/dev/urandom")
}
