// SPDX-License-Identifier: Apache-2.0

package option

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Option is one option that a plugin has.
type Option struct {
	// Name is what stands before the "=": 1 to 64 of a-z, 0-9 and "-".
	Name string
	// Type says which values there are. The zero value is [String].
	Type Type
	// Default is the value where the operator gives none, written as an operator
	// would. Empty for a required option, and where there is no value then.
	Default string
	// Required: there is no disk without it, and an empty value is none.
	Required bool
	// Min and Max bound an [Int], a [Size] in bytes, or a [Duration] in nanoseconds,
	// both included. 0 in both: any value of the type.
	Min, Max int64
	// Choices are the values of a [Choice].
	Choices []string
	// Help is for people: one line of at most 200 bytes.
	Help string
}

// Type is a kind of value.
type Type uint8

// The types, how an operator writes their values, and how [Values] has them.
const (
	String   Type = iota // anything printable
	Bool                 // true, false, yes, no, on, off; nothing behind the name's "=" is an error
	Int                  // decimal, with a sign or without
	Size                 // bytes: 4096, 64K, 1M, 2G, 1T for powers of 2^10; 0 or more
	Duration             // as in Go: 300ms, 30s, 1h30m; 0 or more
	Path                 // of a file or folder, for flexnbd's own working folder
	Choice               // one of Choices
)

var typeNames = []string{"string", "bool", "int", "size", "duration", "path", "choice"}

// String returns the type's name, as `flexnbd plugin info` shows it.
func (t Type) String() string {
	if int(t) < len(typeNames) {
		return typeNames[t]
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// ParseType is the opposite of [Type.String]. ok is false for a type that this version
// does not know.
func ParseType(s string) (t Type, ok bool) {
	i := slices.Index(typeNames, s)
	return Type(max(i, 0)), i >= 0
}

// Most is how many options a plugin may declare.
const Most = 64

// Limits on what a plugin may declare, in bytes where they are not numbers of things.
const (
	maxName    = 64
	maxHelp    = 200
	maxValue   = 4096
	maxChoices = 64
)

// Check returns nil, or what is wrong with the declaration.
func (o Option) Check() error {
	switch {
	case !validName(o.Name):
		return fmt.Errorf("option name %.80q is not 1 to %d of a-z, 0-9 and \"-\"", o.Name, maxName)
	case int(o.Type) >= len(typeNames):
		return fmt.Errorf("option %q is of an unknown type %d", o.Name, o.Type)
	case len(o.Help) > maxHelp || !printable(o.Help):
		return fmt.Errorf("the help of option %q is not one line of at most %d bytes", o.Name, maxHelp)
	case o.Required && o.Default != "":
		return fmt.Errorf("option %q is required and has a default, %q", o.Name, o.Default)
	case (o.Type == Choice) != (len(o.Choices) > 0):
		return fmt.Errorf("option %q is a %s with %d choices; a choice has some, and nothing else has", o.Name, o.Type, len(o.Choices))
	case len(o.Choices) > maxChoices:
		return fmt.Errorf("option %q has %d choices, more than %d", o.Name, len(o.Choices), maxChoices)
	case (o.Min != 0 || o.Max != 0) && o.Type != Int && o.Type != Size && o.Type != Duration:
		return fmt.Errorf("option %q is a %s, which has no bounds", o.Name, o.Type)
	case o.Min > o.Max:
		return fmt.Errorf("option %q is to be at least %d and at most %d", o.Name, o.Min, o.Max)
	}
	for _, c := range o.Choices {
		if c == "" || len(c) > maxName || !printable(c) {
			return fmt.Errorf("choice %.80q of option %q is not 1 to %d printable bytes", c, o.Name, maxName)
		}
	}
	if o.Default == "" {
		return nil
	}
	if _, err := o.Parse(o.Default); err != nil {
		return fmt.Errorf("the default of %w", err)
	}
	return nil
}

// Parse returns value as [Values] has it: an Int and a Size in decimal, a Bool as true
// or false, a Duration as Go writes it.
func (o Option) Parse(value string) (string, error) {
	wrong := func(want string) (string, error) {
		return "", fmt.Errorf("option %s=%.200s: %s", o.Name, strconv.Quote(value), want)
	}
	if len(value) > maxValue {
		return "", fmt.Errorf("option %s has a value of %d bytes, more than %d", o.Name, len(value), maxValue)
	}
	switch o.Type {
	case Bool:
		switch value {
		case "true", "yes", "on":
			return "true", nil
		case "false", "no", "off":
			return "false", nil
		}
		return wrong("want true or false")
	case Int:
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return wrong("want a whole number")
		}
		return o.bounded(n, value, strconv.FormatInt(n, 10))
	case Size:
		n, ok := ParseSize(value)
		if !ok {
			return wrong("want a number of bytes, such as 4096, 64K, 1M or 2G")
		}
		return o.bounded(n, value, strconv.FormatInt(n, 10))
	case Duration:
		d, err := time.ParseDuration(value)
		if err != nil || d < 0 {
			return wrong("want a time, such as 300ms, 30s or 1h30m")
		}
		return o.bounded(int64(d), value, d.String())
	case Choice:
		if !slices.Contains(o.Choices, value) {
			return wrong("want one of " + strings.Join(o.Choices, ", "))
		}
	default:
		if !printable(value) {
			return wrong("want printable text")
		}
	}
	return value, nil
}

// bounded returns text for n, which was written as value.
func (o Option) bounded(n int64, value, text string) (string, error) {
	if o.Min == 0 && o.Max == 0 || o.Min <= n && n <= o.Max {
		return text, nil
	}
	return "", fmt.Errorf("option %s=%s: want %s to %s", o.Name, value, o.text(o.Min), o.text(o.Max))
}

// text is how an operator would write n.
func (o Option) text(n int64) string {
	switch o.Type {
	case Size:
		return FormatSize(n)
	case Duration:
		return time.Duration(n).String()
	}
	return strconv.FormatInt(n, 10)
}

// Bounds says in words which values are allowed, or nothing where all of the type are.
func (o Option) Bounds() string {
	switch {
	case len(o.Choices) > 0:
		return strings.Join(o.Choices, ", ")
	case o.Min != 0 || o.Max != 0:
		return o.text(o.Min) + " to " + o.text(o.Max)
	}
	return ""
}

const units = "KMGT"

// ParseSize reads a number of bytes, with K, M, G or T behind it for 2^10 to 2^40.
func ParseSize(s string) (n int64, ok bool) {
	shift := 0
	if s != "" {
		if i := strings.IndexByte(units, s[len(s)-1]); i >= 0 {
			s, shift = s[:len(s)-1], 10*(i+1)
		}
	}
	u, err := strconv.ParseUint(s, 10, 63)
	if err != nil || u > math.MaxInt64>>shift {
		return 0, false
	}
	return int64(u) << shift, true
}

// FormatSize writes n as [ParseSize] reads it, with the largest unit that fits.
func FormatSize(n int64) string {
	for i := len(units); i > 0 && n != 0; i-- {
		if shift := 10 * i; n&(1<<shift-1) == 0 {
			return strconv.FormatInt(n>>shift, 10) + units[i-1:i]
		}
	}
	return strconv.FormatInt(n, 10)
}

func validName(name string) bool {
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return name != "" && len(name) <= maxName
}

func printable(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}
