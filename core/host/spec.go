// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

// Spec is what an operator wrote to choose a plugin.
type Spec struct {
	Kind    wire.Kind
	Name    string            // a plugin's name, or empty
	Path    string            // an absolute path, or empty
	Stock   bool              // only the plugin inside this binary will do
	Options map[string]string // never nil
}

// stockPrefix forces a stock plugin.
const stockPrefix = "builtin:"

// maxSpec bounds what ParseSpec looks at, in bytes.
const maxSpec = 64 << 10

// ParseSpec reads NAME|/PATH[,key=value...]. A comma inside a path or a value is
// written twice. "builtin:NAME" asks for the plugin inside this binary.
func ParseSpec(kind wire.Kind, s string) (Spec, error) {
	spec := Spec{Kind: kind, Options: map[string]string{}}
	if len(s) > maxSpec {
		return Spec{}, fmt.Errorf("--%s is longer than %d bytes", kind, maxSpec)
	}
	fields := splitCommas(s)
	what := fields[0]
	switch {
	case what == "":
		return Spec{}, fmt.Errorf("--%s is empty; give a plugin's name or the path of its binary", kind)
	case strings.HasPrefix(what, stockPrefix):
		spec.Stock, spec.Name = true, strings.TrimPrefix(what, stockPrefix)
	case strings.Contains(what, "/"):
		path, err := filepath.Abs(what)
		if err != nil {
			return Spec{}, fmt.Errorf("--%s %s: %w", kind, what, err)
		}
		spec.Path = path
	default:
		spec.Name = what
	}
	if spec.Path == "" && !wire.ValidName(spec.Name) {
		return Spec{}, fmt.Errorf("--%s %q: a plugin's name is 1 to 64 of a-z, 0-9 and \"-\"; a path has a \"/\" in it", kind, spec.Name)
	}
	for _, field := range fields[1:] {
		key, value, ok := strings.Cut(field, "=")
		if !ok || key == "" {
			return Spec{}, fmt.Errorf("--%s %s: option %q is not key=value", kind, what, field)
		}
		if _, twice := spec.Options[key]; twice {
			return Spec{}, fmt.Errorf("--%s %s: option %q is given twice", kind, what, key)
		}
		spec.Options[key] = value
	}
	return spec, nil
}

// splitCommas splits at single commas and makes double ones single. It returns
// at least one field.
func splitCommas(s string) []string {
	var fields []string
	var field strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != ',':
			field.WriteByte(s[i])
		case i+1 < len(s) && s[i+1] == ',':
			field.WriteByte(',')
			i++
		default:
			fields = append(fields, field.String())
			field.Reset()
		}
	}
	return append(fields, field.String())
}
