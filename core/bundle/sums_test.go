// SPDX-License-Identifier: GPL-3.0-or-later

package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var someDigest = strings.Repeat("0123456789abcdef", 4)

func TestSumsReadsWhatItEncodes(t *testing.T) {
	s, err := ReadSums(strings.NewReader(someDigest + "  b\n" + someDigest + " *a"))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := s.Encode(&out); err != nil {
		t.Fatal(err)
	}
	if want := someDigest + "  a\n" + someDigest + "  b\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestSumsRefuses(t *testing.T) {
	var many strings.Builder
	for i := range 64 {
		fmt.Fprintf(&many, "%s  file%d\n", someDigest, i)
	}
	for _, c := range []struct{ text, says string }{
		{"", "no file"},
		{"\n", "line 1"},
		{someDigest + "\n", "line 1"},
		{someDigest + "  \n", "line 1"},
		{someDigest + " name\n", "two spaces"},
		{someDigest[:62] + "  name\n", "two spaces"},
		{strings.Repeat("x", 64) + "  name\n", "does not begin with a SHA-256"},
		{someDigest + "  a\n\n" + someDigest + "  b\n", "line 2"},
		{someDigest + "  a\n" + someDigest + "  a\n", "listed twice"},
		{someDigest + "  /etc/passwd\n", "plain name"},
		{someDigest + "  ../passwd\n", "plain name"},
		{someDigest + "  ..\n", "plain name"},
		{someDigest + "  ./a\n", "plain name"},
		{someDigest + "  a/b\n", "plain name"},
		{someDigest + "  a\r\n", "plain name"},
		{someDigest + "  a\x00\n", "plain name"},
		{"\\" + someDigest + "  a\\nb\n", "two spaces"},
		{someDigest + "  SHA256SUMS\n", "its own digest"},
		{many.String(), "more than 63 files"},
		{strings.Repeat("#", maxText+1), "longer than 65536"},
	} {
		_, err := ReadSums(strings.NewReader(c.text))
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%.100q: %v", c.text, err)
		}
		says(t, err, c.says)
	}
}

func TestSha256sumAgrees(t *testing.T) {
	tool, err := exec.LookPath("sha256sum")
	if err != nil {
		t.Fatal(err) // every Debian has it
	}
	dir := built(t, "1.0")
	check := exec.Command(tool, "--check", "--strict", SumsFile)
	check.Dir = dir
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	make := exec.Command("sh", "-c", "sha256sum $(ls | grep -v SHA256SUMS)")
	make.Dir = dir
	out, err := make.Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, SumsFile), out, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := opened(t, dir).Verify(); err != nil {
		t.Error(err)
	}
}

func FuzzSums(f *testing.F) {
	f.Add([]byte(someDigest + "  b\n" + someDigest + " *a\n"))
	f.Add([]byte(someDigest + "  ../b\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ReadSums(bytes.NewReader(data))
		if err != nil {
			if !errors.Is(err, ErrMalformed) || !printableError(err) {
				t.Fatalf("%q", err)
			}
			return
		}
		for name := range s {
			if name == SumsFile || filepath.Base(name) != name || !filepath.IsLocal(name) {
				t.Fatalf("name %q", name)
			}
		}
		var out bytes.Buffer
		if err := s.Encode(&out); err != nil {
			t.Fatal(err)
		}
		again, err := ReadSums(&out)
		if err != nil || !maps.Equal(s, again) {
			t.Fatalf("%v became %v, %v", s, again, err)
		}
	})
}
