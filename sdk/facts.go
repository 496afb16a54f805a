// SPDX-License-Identifier: Apache-2.0

package sdk

import (
	"encoding/json"
	"io"
	"runtime"

	"github.com/flexnbd/flexnbd/sdk/option"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// facts are what --describe prints: those of a bundle's plugin.json that the binary
// itself knows, under the same keys, and the options.
type facts struct {
	Schema           int         `json:"schema"`
	Kind             string      `json:"kind"`
	Name             string      `json:"name"`
	Version          string      `json:"version"`
	Vendor           string      `json:"vendor,omitempty"`
	Homepage         string      `json:"homepage,omitempty"`
	License          string      `json:"license,omitempty"`
	ProtocolVersions []int       `json:"protocol_versions"`
	SDKVersion       string      `json:"sdk_version,omitempty"`
	Platforms        []string    `json:"platforms"`
	Options          []optionOut `json:"options"`
}

// optionOut is an option as people and programs read it.
type optionOut struct {
	Name     string   `json:"name"`
	Type     string   `json:"type"`
	Default  string   `json:"default,omitempty"`
	Required bool     `json:"required,omitempty"`
	Min      int64    `json:"min,omitempty"`
	Max      int64    `json:"max,omitempty"`
	Choices  []string `json:"choices,omitempty"`
	Help     string   `json:"help,omitempty"`
}

// writeFacts prints what d says as JSON.
func writeFacts(w io.Writer, d wire.Description) error {
	f := facts{
		Schema: 1,
		Kind:   d.Kind.String(), Name: d.Name, Version: d.Version,
		Vendor: d.Vendor, Homepage: d.Homepage, License: d.License,
		ProtocolVersions: []int{wire.ProtocolVersion},
		SDKVersion:       d.SDKVersion,
		Platforms:        []string{runtime.GOOS + "/" + runtime.GOARCH},
		Options:          []optionOut{},
	}
	for _, o := range d.Options {
		f.Options = append(f.Options, optionFacts(o))
	}
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	return out.Encode(f)
}

func optionFacts(o option.Option) optionOut {
	return optionOut{
		Name: o.Name, Type: o.Type.String(), Default: o.Default, Required: o.Required,
		Min: o.Min, Max: o.Max, Choices: o.Choices, Help: o.Help,
	}
}
