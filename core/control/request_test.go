// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func TestRequestsThatAreRead(t *testing.T) {
	for _, c := range []struct {
		text string
		want []string // the verb and its arguments
	}{
		{"status\n\n", []string{"status"}},
		{"status\n", []string{"status"}},
		{"status", []string{"status"}},
		{"status\n\nmore\n", []string{"status"}},
		{"acl\n::1\n10.0.0.0/8\n\n", []string{"acl", "::1", "10.0.0.0/8"}},
		{"acl\n::1", []string{"acl", "::1"}},
		{"status\r\n\r\n", []string{"status\r", "\r"}},
		{" a b \n", []string{" a b "}},
		{strings.Repeat("x", MaxRequest), []string{strings.Repeat("x", MaxRequest)}},
		{strings.Repeat("x\n", MaxLines) + "\n", slices.Repeat([]string{"x"}, MaxLines)},
	} {
		have, err := readRequest(iotest.OneByteReader(strings.NewReader(c.text)))
		if err != nil || !slices.Equal(append([]string{have.verb}, have.args...), c.want) {
			t.Errorf("%.40q: have %.60q and error %v", c.text, have, err)
		}
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	for _, c := range []struct {
		text string
		want error
	}{
		{"", errNoVerb},
		{"\n", errNoVerb},
		{"\nstatus\n\n", errNoVerb},
		{"sta\x00tus\n\n", errNUL},
		{strings.Repeat("x", MaxRequest+1), errTooLong},
		{strings.Repeat("x", MaxRequest-1) + "\n\n", errTooLong},
		{strings.Repeat("x\n", MaxLines+1) + "\n", errTooManyLines},
	} {
		if have, err := readRequest(strings.NewReader(c.text)); !errors.Is(err, c.want) {
			t.Errorf("%.40q: have %.60q and error %v, want %v", c.text, have, err, c.want)
		}
	}
}

func TestRequestReadsNoFurtherThanItsLimit(t *testing.T) {
	endless := &counting{}
	if _, err := readRequest(endless); !errors.Is(err, errTooLong) {
		t.Errorf("error %v, want %v", err, errTooLong)
	}
	if endless.n > MaxRequest+1 {
		t.Errorf("%d bytes were read", endless.n)
	}
}

// counting is a request without end.
type counting struct{ n int }

func (c *counting) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	c.n += len(p)
	return len(p), nil
}

func TestEncodeRefusesWhatWouldBeReadAsAnotherRequest(t *testing.T) {
	for _, q := range []request{
		{verb: ""},
		{verb: "acl", args: []string{""}},
		{verb: "acl", args: []string{"a\nb"}},
		{verb: "acl", args: []string{"a\x00b"}},
		{verb: "acl", args: slices.Repeat([]string{"x"}, MaxLines)},
		{verb: "acl", args: []string{strings.Repeat("x", MaxRequest)}},
	} {
		if b, err := q.encode(); err == nil {
			t.Errorf("%.40q became %.40q", q, b)
		}
	}
}

func TestAnswerForm(t *testing.T) {
	for _, c := range []struct {
		a    Answer
		want string
	}{
		{Answer{}, "0: "},
		{Answer{0, "updated"}, "0: updated"},
		{Answer{255, "a: b"}, "255: a: b"},
		{Answer{1, "one\ntwo\r\x00"}, "1: one two  "},
		{Answer{1, strings.Repeat("x", MaxAnswer)}, "1: " + strings.Repeat("x", MaxAnswer-4)},
	} {
		if have := c.a.String(); have != c.want {
			t.Errorf("have %.60q, want %.60q", have, c.want)
		}
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	for _, text := range []string{
		"", "\n", "0", "0: no end", "0\n", "0:\n", ": x\n", "+1: x\n", "-1: x\n", "01: x\n", " 1: x\n",
		"256: x\n", "x: y\n", "0: a\rb\n", "0: a\x00b\n", "HTTP/1.1 400 Bad Request\r\n",
		"0: " + strings.Repeat("x", MaxAnswer) + "\n",
	} {
		if a, err := readAnswer(strings.NewReader(text)); err == nil {
			t.Errorf("%.40q was read as %.40q", text, a)
		}
	}
}

func FuzzReadRequest(f *testing.F) {
	f.Add([]byte("status\n\n"))
	f.Add([]byte("acl\n::1\n10.0.0.0/8"))
	f.Add([]byte("\n\x00\r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		q, err := readRequest(bytes.NewReader(text))
		if err != nil {
			return
		}
		b, err := q.encode()
		if err != nil {
			// A request that ends with its stream may be one empty line short.
			if len(text) >= MaxRequest-1 {
				return
			}
			t.Fatalf("%q was read and can't be written: %v", q, err)
		}
		again, err := readRequest(bytes.NewReader(b))
		if err != nil || again.verb != q.verb || !slices.Equal(again.args, q.args) {
			t.Fatalf("%q became %q, error %v", q, again, err)
		}
	})
}

func FuzzReadAnswer(f *testing.F) {
	f.Add("0: updated\n")
	f.Add("10: unknown command\n")
	f.Add("1:\x00\n")
	f.Fuzz(func(t *testing.T, text string) {
		a, err := readAnswer(strings.NewReader(text))
		if err != nil {
			return
		}
		line, _, _ := strings.Cut(text, "\n")
		if a.String() != line {
			t.Fatalf("%q became %q", line, a)
		}
	})
}

func TestPairsRoundTrip(t *testing.T) {
	var p Pairs
	p.Add("is_mirroring", false)
	p.Add("size", int64(1)<<40)
	p.Add("backend", "/a b/100%\n\xff\x7fü=")
	p.Add("empty", "")
	text := p.String()
	want := "is_mirroring=false size=1099511627776 backend=/a%20b/100%25%0A%FF%7F%C3%BC= empty="
	if text != want {
		t.Errorf("have %q, want %q", text, want)
	}
	again, err := ParsePairs(text)
	if err != nil || !reflect.DeepEqual(again, p) {
		t.Errorf("have %q, error %v", again, err)
	}
	if value, ok := again.Get("backend"); !ok || value != "/a b/100%\n\xff\x7fü=" {
		t.Errorf("backend: %q, %t", value, ok)
	}
	if value, ok := again.Get("none"); ok {
		t.Errorf("a pair that is not there: %q", value)
	}
}

func TestBadKeysPanic(t *testing.T) {
	for _, key := range []string{"", "A", "1a", "_a", "a b", "a=", "ä", "a-b", "there"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("key %q was taken", key)
				}
			}()
			p := Pairs{{Key: "there"}}
			p.Add(key, 1)
		}()
	}
}

func TestPairsThatAreNone(t *testing.T) {
	for _, text := range []string{
		" ", "a", "=1", "a=1 ", " a=1", "a=1  b=2", "A=1", "a=1 a=2", "a=%", "a=%2", "a=%2G", "a=%G2",
		"a=%41", "a=\n", "a=\xff", strings.Repeat("a=1 ", 300),
	} {
		if p, err := ParsePairs(text); err == nil {
			t.Errorf("%.40q was read as %.60q", text, p)
		}
	}
	if p, err := ParsePairs(""); err != nil || len(p) != 0 {
		t.Errorf("no pairs: %q, error %v", p, err)
	}
	if p, err := ParsePairs("a=%0a"); err != nil || p[0].Value != "\n" {
		t.Errorf("lower case digits: %q, error %v", p, err)
	}
}

func FuzzParsePairs(f *testing.F) {
	f.Add("is_mirroring=false has_control=true pid=1 backend=a%20b")
	f.Add("a= b=%00 c==")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePairs(text)
		if err != nil {
			return
		}
		written := p.String()
		if !strings.EqualFold(written, text) {
			t.Fatalf("%q became %q", text, written)
		}
		again, err := ParsePairs(written)
		if err != nil || !slices.Equal(again, p) {
			t.Fatalf("%q became %q, error %v", p, again, err)
		}
	})
}
