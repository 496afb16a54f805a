// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"fmt"
	"strings"
)

// Pairs is the text of a status answer: "key=value" pairs in order, with one
// space between them. A value never holds a space: there the bytes up to
// 0x20, '%', and those from 0x7f on are written as '%' and two hexadecimal
// digits. A key is a lower-case letter, then such letters, digits and '_'.
type Pairs []Pair

// Pair is one fact.
type Pair struct{ Key, Value string }

// Add appends a pair, with value as fmt.Sprint writes it. A key that has a
// wrong form, or is there already, is a mistake in the program: Add panics.
func (p *Pairs) Add(key string, value any) {
	if !isKey(key) {
		panic(fmt.Sprintf("control: %q is no key", key))
	}
	if _, ok := p.Get(key); ok {
		panic(fmt.Sprintf("control: key %s is there already", key))
	}
	*p = append(*p, Pair{key, fmt.Sprint(value)})
}

// Get returns the value of key.
func (p Pairs) Get(key string) (value string, ok bool) {
	for _, pair := range p {
		if pair.Key == key {
			return pair.Value, true
		}
	}
	return "", false
}

// String returns the pairs as they are sent.
func (p Pairs) String() string {
	var b strings.Builder
	for i, pair := range p {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(pair.Key)
		b.WriteByte('=')
		for _, c := range []byte(pair.Value) {
			if mustEncode(c) {
				fmt.Fprintf(&b, "%%%02X", c)
			} else {
				b.WriteByte(c)
			}
		}
	}
	return b.String()
}

// ParsePairs reads what String wrote. It takes the text of any server and so
// refuses whatever String could not have written, but for digits of the other
// case.
func ParsePairs(text string) (Pairs, error) {
	if text == "" {
		return nil, nil
	}
	var p Pairs
	for word := range strings.SplitSeq(text, " ") {
		key, coded, found := strings.Cut(word, "=")
		if !found || !isKey(key) {
			return nil, fmt.Errorf("status: %q is no key=value pair", word)
		}
		if _, ok := p.Get(key); ok {
			return nil, fmt.Errorf("status: key %s comes twice", key)
		}
		value, err := decodeValue(coded)
		if err != nil {
			return nil, fmt.Errorf("status: key %s: %w", key, err)
		}
		if len(p) == maxPairs {
			return nil, fmt.Errorf("status: more than %d pairs", maxPairs)
		}
		p = append(p, Pair{key, value})
	}
	return p, nil
}

// maxPairs keeps the search for doubled keys short.
const maxPairs = 256

func isKey(key string) bool {
	for i, c := range []byte(key) {
		letter := c >= 'a' && c <= 'z'
		if !letter && (i == 0 || c != '_' && (c < '0' || c > '9')) {
			return false
		}
	}
	return key != ""
}

func mustEncode(c byte) bool { return c <= ' ' || c == '%' || c >= 0x7f }

func decodeValue(coded string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(coded); i++ {
		c := coded[i]
		switch {
		case c == '%':
			if i+2 >= len(coded) {
				return "", fmt.Errorf("%q ends inside a %%XX", coded)
			}
			high, low := digit(coded[i+1]), digit(coded[i+2])
			if high > 15 || low > 15 {
				return "", fmt.Errorf("%q holds a %% without two digits", coded)
			}
			c = high<<4 | low
			if !mustEncode(c) {
				return "", fmt.Errorf("%q encodes what needs none", coded)
			}
			i += 2
		case mustEncode(c):
			return "", fmt.Errorf("%q holds a byte that must be encoded", coded)
		}
		b.WriteByte(c)
	}
	return b.String(), nil
}

// digit is the value of a hexadecimal digit, else more than 15.
func digit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}
