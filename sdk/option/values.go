// SPDX-License-Identifier: Apache-2.0

package option

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
)

// Values are options by name, as [Set.Parse] returns them. The methods are for options
// that have a value: given, or by default, or required. They panic for any other, and
// where the value is of another type, which is a mistake in the plugin's declaration.
type Values map[string]string

// Int returns an [Int].
func (v Values) Int(name string) int64 { return v.number(name) }

// Size returns a [Size], in bytes.
func (v Values) Size(name string) int64 { return v.number(name) }

func (v Values) number(name string) int64 {
	n, err := strconv.ParseInt(v[name], 10, 64)
	v.must(name, err)
	return n
}

// Bool returns a [Bool].
func (v Values) Bool(name string) bool {
	b, err := strconv.ParseBool(v[name])
	v.must(name, err)
	return b
}

// Duration returns a [Duration].
func (v Values) Duration(name string) time.Duration {
	d, err := time.ParseDuration(v[name])
	v.must(name, err)
	return d
}

func (v Values) must(name string, err error) {
	if err != nil {
		panic(fmt.Sprintf("option %q is asked for as something that it was not declared as, or has no default: %v", name, err))
	}
}

func sorted(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
