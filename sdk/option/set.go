// SPDX-License-Identifier: Apache-2.0

package option

import (
	"fmt"
	"slices"
	"strings"
)

// Set is all options of a plugin, in the order in which they are shown.
type Set []Option

// Check returns nil, or what is wrong with the declarations.
func (s Set) Check() error {
	if len(s) > Most {
		return fmt.Errorf("%d options are declared, more than %d", len(s), Most)
	}
	for i, o := range s {
		if err := o.Check(); err != nil {
			return err
		}
		if _, twice := s[:i].find(o.Name); twice {
			return fmt.Errorf("option %q is declared twice", o.Name)
		}
	}
	return nil
}

func (s Set) find(name string) (Option, bool) {
	i := slices.IndexFunc(s, func(o Option) bool { return o.Name == name })
	if i < 0 {
		return Option{}, false
	}
	return s[i], true
}

// Parse checks what an operator gave and returns it complete: each value as
// [Option.Parse] has it, with the defaults of what was not given. To parse the result
// again changes nothing.
func (s Set) Parse(given map[string]string) (Values, error) {
	for _, name := range sorted(given) {
		if _, known := s.find(name); !known {
			return nil, s.unknown(name)
		}
	}
	values := Values{}
	for _, o := range s {
		text, ok := given[o.Name]
		switch {
		case !ok && o.Required:
			return nil, fmt.Errorf("option %s is missing: %s; write %s=VALUE", o.Name, o.Help, o.Name)
		case !ok && o.Default == "":
			continue
		case text == "" && o.Required:
			return nil, fmt.Errorf("option %s is empty: %s; write %s=VALUE", o.Name, o.Help, o.Name)
		case !ok:
			text = o.Default
		}
		value, err := o.Parse(text)
		if err != nil {
			return nil, err
		}
		values[o.Name] = value
	}
	return values, nil
}

func (s Set) unknown(name string) error {
	if len(s) == 0 {
		return fmt.Errorf("unknown option %.80q; it has none", name)
	}
	names := make([]string, len(s))
	for i, o := range s {
		names[i] = o.Name
	}
	return fmt.Errorf("unknown option %.80q; it has: %s", name, strings.Join(names, ", "))
}
