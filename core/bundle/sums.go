// SPDX-License-Identifier: GPL-3.0-or-later

package bundle

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// Digest is a file's SHA-256.
type Digest [sha256.Size]byte

// String is 64 hexadecimal digits, in lower case.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Sums is what SHA256SUMS says: each file's digest. The names are plain, and
// SHA256SUMS is not among them.
type Sums map[string]Digest

// ReadSums reads what sha256sum has written, at most 64 KiB, to the end. It is
// stricter than `sha256sum -c`, which passes over lines that it does not
// understand, and follows names to wherever they lead. The error is an
// [ErrMalformed] unless reading failed.
func ReadSums(r io.Reader) (Sums, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxText+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", SumsFile, err)
	}
	s, err := parseSums(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrMalformed, SumsFile, err)
	}
	return s, nil
}

func parseSums(data []byte) (Sums, error) {
	if len(data) > maxText {
		return nil, fmt.Errorf("longer than %d bytes", maxText)
	}
	if len(data) == 0 {
		return nil, errors.New("it lists no file")
	}
	s := Sums{}
	n := 0
	for line := range strings.SplitSeq(strings.TrimSuffix(string(data), "\n"), "\n") {
		n++
		if err := s.parseLine(line); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if len(s) >= defaultFiles {
			return nil, fmt.Errorf("it lists more than %d files", defaultFiles-1)
		}
	}
	return s, nil
}

// parseLine reads a digest, a space, a space or a "*" (which stands for binary mode and
// means nothing), and a name.
func (s Sums) parseLine(line string) error {
	var d Digest
	digits := hex.EncodedLen(len(d))
	if len(line) < digits+3 || line[digits] != ' ' || line[digits+1] != ' ' && line[digits+1] != '*' {
		return fmt.Errorf("%.120q is not a SHA-256, two spaces and a name", line)
	}
	if _, err := hex.Decode(d[:], []byte(line[:digits])); err != nil {
		return fmt.Errorf("%.120q does not begin with a SHA-256", line)
	}
	name := line[digits+2:]
	if err := s.checkName(name); err != nil {
		return err
	}
	s[name] = d
	return nil
}

func (s Sums) checkName(name string) error {
	switch _, twice := s[name]; {
	case !plain(name):
		return fmt.Errorf("%.120q is not the plain name of a file of a bundle", name)
	case name == SumsFile:
		return fmt.Errorf("%s cannot have its own digest", SumsFile)
	case twice:
		return fmt.Errorf("%s is listed twice", name)
	}
	return nil
}

// Encode writes s as `sha256sum` would, sorted by name.
func (s Sums) Encode(w io.Writer) error {
	var out strings.Builder
	for _, name := range s.names() {
		fmt.Fprintf(&out, "%s  %s\n", s[name], name)
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// names are the files, sorted.
func (s Sums) names() []string { return slices.Sorted(maps.Keys(s)) }
