// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

func TestSpecIsRead(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	type options = map[string]string
	for text, want := range map[string]Spec{
		"file":                    {Name: "file"},
		"builtin:file":            {Name: "file", Stock: true},
		"file,a=1,b=":             {Name: "file", Options: options{"a": "1", "b": ""}},
		"file,a=x,,y":             {Name: "file", Options: options{"a": "x,y"}},
		"file,a=x,,":              {Name: "file", Options: options{"a": "x,"}},
		"file,a=,,,b=2":           {Name: "file", Options: options{"a": ",", "b": "2"}},
		"file,a=b=c":              {Name: "file", Options: options{"a": "b=c"}},
		"file,a,,b=c":             {Name: "file", Options: options{"a,b": "c"}},
		"/opt/x":                  {Path: "/opt/x"},
		"/opt/a,,b,k=v":           {Path: "/opt/a,b", Options: options{"k": "v"}},
		"/opt/../x/":              {Path: "/x"},
		"./x":                     {Path: filepath.Join(wd, "x")},
		"sub/x":                   {Path: filepath.Join(wd, "sub/x")},
		"/opt/builtin:x":          {Path: "/opt/builtin:x"},
		strings.Repeat("a", 64):   {Name: strings.Repeat("a", 64)},
		"builtin:file,k=builtin:": {Name: "file", Stock: true, Options: options{"k": "builtin:"}},
	} {
		want.Kind = wire.KindBackend
		got, err := ParseSpec(wire.KindBackend, text)
		if err != nil || !sameSpec(got, want) || got.Options == nil {
			t.Errorf("%q: %+v, %v, want %+v", text, got, err, want)
		}
	}
}

func sameSpec(a, b Spec) bool {
	same := maps.Equal(a.Options, b.Options)
	return same && a.Kind == b.Kind && a.Name == b.Name && a.Path == b.Path && a.Stock == b.Stock
}

func TestWrongSpecIsRefusedByName(t *testing.T) {
	for text, want := range map[string]string{
		"":                                     "--transport is empty",
		",a=1":                                 "--transport is empty",
		"File":                                 `--transport "File"`,
		"a b":                                  `--transport "a b"`,
		"a,,b":                                 `"a,b"`,
		"builtin:":                             `--transport ""`,
		"builtin:/x":                           `"/x"`,
		"builtin:builtin:x":                    `"builtin:x"`,
		strings.Repeat("a", 65):                "1 to 64",
		"file,":                                `option "" is not key=value`,
		"file,a":                               `option "a" is not key=value`,
		"file,=1":                              `option "=1" is not key=value`,
		"file,a=1,a=2":                         `option "a" is given twice`,
		"file,a=1,b=2,a=":                      `option "a" is given twice`,
		strings.Repeat("/", 65537):             "longer than 65536 bytes",
		"file,k=" + strings.Repeat("v", 65536): "longer than 65536 bytes",
	} {
		if got, err := ParseSpec(wire.KindTransport, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %+v, %v, want an error about %q", text, got, err, want)
		}
	}
}

func FuzzParseSpec(f *testing.F) {
	for _, s := range []string{"file", "builtin:file,a=1", "/a,,b,c=d,,e", ",,", "a,=", "file,a=1,a=2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		spec, err := ParseSpec(wire.KindBackend, s)
		if err != nil {
			return
		}
		if (spec.Path == "") == (spec.Name == "") || spec.Stock && spec.Path != "" {
			t.Errorf("%q: %+v", s, spec)
		}
		if spec.Path != "" && !filepath.IsAbs(spec.Path) {
			t.Errorf("%q: path %q", s, spec.Path)
		}
		// Written anew, it means the same.
		double := func(s string) string { return strings.ReplaceAll(s, ",", ",,") }
		text := spec.Name + double(spec.Path)
		if spec.Stock {
			text = stockPrefix + text
		}
		for _, key := range slices.Sorted(maps.Keys(spec.Options)) {
			text += "," + double(key+"="+spec.Options[key])
		}
		if len(text) > maxSpec {
			return
		}
		if again, err := ParseSpec(wire.KindBackend, text); err != nil || !sameSpec(again, spec) {
			t.Errorf("%q is %+v, and written anew as %q %+v, %v", s, spec, text, again, err)
		}
	})
}
