// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"unicode"
	"unicode/utf8"

	"github.com/flexnbd/flexnbd/sdk/option"
	"github.com/flexnbd/flexnbd/sdk/store"
	pluginv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/plugin/v1"
)

// Description is what a plugin says about itself.
type Description struct {
	Kind       Kind
	Name       string // 1 to 64 of a-z, 0-9 and "-"
	Version    string // at most 64 bytes of printable text; may be empty
	SDKVersion string // the same

	// Vendor, Homepage and License, an SPDX expression, are for people: each is one
	// line of at most 200 bytes, or empty.
	Vendor, Homepage, License string

	// Options are what an operator may set. A plugin that does not declare them gets
	// whatever was given.
	Options         option.Set
	DeclaresOptions bool
}

// Check returns nil, or what is wrong with the description.
func (d Description) Check() error {
	switch {
	case d.Kind != KindBackend && d.Kind != KindTransport:
		return fmt.Errorf("unknown kind %d", d.Kind)
	case !ValidName(d.Name):
		return fmt.Errorf("name %.80q is not 1 to 64 of a-z, 0-9 and \"-\"", d.Name)
	case !validVersion(d.Version):
		return fmt.Errorf("version %.80q is not printable text of at most 64 bytes", d.Version)
	case !validVersion(d.SDKVersion):
		return fmt.Errorf("SDK version %.80q is not printable text of at most 64 bytes", d.SDKVersion)
	}
	for what, text := range map[string]string{"vendor": d.Vendor, "homepage": d.Homepage, "license": d.License} {
		if !printable(text, 200) {
			return fmt.Errorf("%s %.220q is not printable text of at most 200 bytes", what, text)
		}
	}
	return d.Options.Check()
}

// ParseOptions checks what an operator gave, and completes it, as far as the plugin has
// declared what there is. The error wraps EINVAL.
func (d Description) ParseOptions(given map[string]string) (option.Values, error) {
	if !d.DeclaresOptions {
		return given, nil
	}
	values, err := d.Options.Parse(given)
	if err != nil {
		return nil, OptionError{err}
	}
	return values, nil
}

// OptionError says which option is wrong, and what there is. It is an EINVAL.
type OptionError struct{ error }

// Unwrap makes it one.
func (e OptionError) Unwrap() []error { return []error{e.error, store.ErrInvalid} }

func validVersion(version string) bool { return printable(version, 64) }

// printable keeps what is shown to people on one line, of at most so many bytes.
func printable(s string, most int) bool {
	if len(s) > most || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// ValidName says whether name can be a plugin's name.
func ValidName(name string) bool {
	if len(name) == 0 || len(name) > 64 {
		return false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

func (d Description) proto() *pluginv1.DescribeResponse {
	return &pluginv1.DescribeResponse{
		Kind:       pluginv1.Kind(d.Kind),
		Name:       d.Name,
		Version:    d.Version,
		SdkVersion: d.SDKVersion,
		Vendor:     d.Vendor, Homepage: d.Homepage, License: d.License,
		Options: optionsToProto(d.Options), DeclaresOptions: d.DeclaresOptions,
	}
}

func descriptionFromProto(p *pluginv1.DescribeResponse) Description {
	d := Description{
		Name: p.GetName(), Version: p.GetVersion(), SDKVersion: p.GetSdkVersion(),
		Vendor: p.GetVendor(), Homepage: p.GetHomepage(), License: p.GetLicense(),
		Options: optionsFromProto(p.GetOptions()), DeclaresOptions: p.GetDeclaresOptions(),
	}
	switch p.GetKind() {
	case pluginv1.Kind_KIND_BACKEND:
		d.Kind = KindBackend
	case pluginv1.Kind_KIND_TRANSPORT:
		d.Kind = KindTransport
	}
	return d
}

func optionsToProto(set option.Set) []*pluginv1.Option {
	list := make([]*pluginv1.Option, len(set))
	for i, o := range set {
		list[i] = &pluginv1.Option{
			Name: o.Name, Type: o.Type.String(), Default: o.Default, Required: o.Required,
			Min: o.Min, Max: o.Max, Choices: o.Choices, Help: o.Help,
		}
	}
	return list
}

// maxDescription is the most bytes that a description may have: 64 options, each with 64
// choices, and what else there is.
const maxDescription = 640 << 10

// optionsFromProto takes no more options than show that there are too many.
func optionsFromProto(list []*pluginv1.Option) (set option.Set) {
	for _, p := range list[:min(len(list), option.Most+1)] {
		o := option.Option{
			Name: p.GetName(), Default: p.GetDefault(), Required: p.GetRequired(),
			Min: p.GetMin(), Max: p.GetMax(), Choices: p.GetChoices(), Help: p.GetHelp(),
		}
		var known bool
		if o.Type, known = option.ParseType(p.GetType()); !known {
			// Of a newer SDK, which checks the value at its own end.
			o.Type, o.Min, o.Max, o.Choices = option.String, 0, 0, nil
		}
		set = append(set, o)
	}
	return set
}
