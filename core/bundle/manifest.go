// SPDX-License-Identifier: GPL-3.0-or-later

package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

// Schema is the only schema of plugin.json so far. Fields may be added to it, which
// older readers pass over; a change that they would get wrong makes a new one.
const Schema = 1

// Manifest is what plugin.json says.
type Manifest struct {
	Schema  int    `json:"schema"`  // [Schema]
	Kind    string `json:"kind"`    // "backend" or "transport": see [Manifest.WireKind]
	Name    string `json:"name"`    // as in --backend NAME: see [wire.ValidName]
	Version string `json:"version"` // 1 to 64 of a-z, A-Z, 0-9 and ".+~-"

	// For people: printable, at most 256 bytes, may be empty.
	Vendor   string `json:"vendor,omitempty"`
	Homepage string `json:"homepage,omitempty"`
	License  string `json:"license,omitempty"` // an SPDX expression, preferably

	// ProtocolVersions are the major versions of the wire that the binary speaks,
	// 1 to 16 of them.
	ProtocolVersions []int `json:"protocol_versions"`
	// SDKVersion is what the binary was built with; empty if not with our SDK.
	SDKVersion string `json:"sdk_version,omitempty"`
	// MinCore is the oldest flexnbd that will do, as in "1.2.0". Empty: any.
	MinCore string `json:"min_core,omitempty"`
	// Platforms are what the binary runs on, as in "linux/amd64": 1 to 32.
	Platforms []string `json:"platforms"`
	// Capabilities are words such as "lend", for people and tools, at most 64.
	// What a plugin can do it says itself, when it is started.
	Capabilities []string `json:"capabilities,omitempty"`
	// Needs are what the plugin needs of the machine: [NeedDisk] and so on. A server
	// that can confines the plugin to that. Empty: it is not confined.
	Needs []string `json:"needs,omitempty"`

	Executable string `json:"executable"` // the binary's file, in the same folder
}

// What a plugin may need of the machine, besides its bundle and the system's libraries
// and programs.
const (
	NeedNothing  = "nothing"  // stands alone
	NeedDisk     = "disk"     // the file or device that --file names
	NeedInternet = "internet" // sockets of the Internet's families, and to look up names
	NeedSockets  = "sockets"  // to make sockets in the folder of an address
)

// Needs are all that a manifest may say.
var Needs = []string{NeedNothing, NeedDisk, NeedInternet, NeedSockets}

const (
	maxVersion      = 64 // bytes
	maxPeopleText   = 256
	maxWord         = 64
	maxProtocols    = 16
	maxPlatforms    = 32
	maxCapabilities = 64
	maxProtocol     = 1 << 16
)

// manifestKeys are the keys of plugin.json that mean something.
var manifestKeys = []string{
	"schema", "kind", "name", "version", "vendor", "homepage", "license", "protocol_versions",
	"sdk_version", "min_core", "platforms", "capabilities", "needs", "executable",
}

// ReadManifest reads a manifest of at most 64 KiB, to the end, and checks it. Keys
// that it does not know it passes over. The error is an [ErrMalformed] unless
// reading failed.
func ReadManifest(r io.Reader) (Manifest, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxText+1))
	if err != nil {
		return Manifest{}, fmt.Errorf("read %s: %w", ManifestFile, err)
	}
	m, err := parseManifest(data)
	if err != nil {
		return Manifest{}, fmt.Errorf("%w: %s: %w", ErrMalformed, ManifestFile, err)
	}
	return m, nil
}

func parseManifest(data []byte) (m Manifest, err error) {
	if len(data) > maxText {
		return m, fmt.Errorf("longer than %d bytes", maxText)
	}
	if !utf8.Valid(data) {
		return m, errors.New("not UTF-8")
	}
	// The schema goes before all else: of what a newer one means by the other
	// keys we know nothing.
	var schema struct {
		Schema int `json:"schema"`
	}
	if err := json.Unmarshal(data, &schema); err != nil {
		return m, err
	}
	if err := checkSchema(schema.Schema); err != nil {
		return m, err
	}
	if err := checkKeys(data); err != nil {
		return m, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return Manifest{}, err
	}
	return m, m.Check()
}

// checkKeys refuses a known key that is there twice or in capitals. Package json
// takes the last one, other readers the first, and both are to see the same.
func checkKeys(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	if _, err := d.Token(); err != nil { // "{", as Unmarshal has found out
		return err
	}
	var seen []string
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return err
		}
		key, _ := token.(string)
		if i := slices.IndexFunc(manifestKeys, func(k string) bool { return strings.EqualFold(k, key) }); i >= 0 {
			if key != manifestKeys[i] {
				return fmt.Errorf("%q has to be written %q", key, manifestKeys[i])
			}
			if slices.Contains(seen, key) {
				return fmt.Errorf("%q is there twice", key)
			}
			seen = append(seen, key)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return err
		}
	}
	return nil
}

func checkSchema(schema int) error {
	switch {
	case schema > Schema:
		return fmt.Errorf("it is of schema %d, and this flexnbd knows schema %d: upgrade flexnbd, or get a bundle that was made for this one", schema, Schema)
	case schema != Schema:
		return fmt.Errorf("it does not say \"schema\": %d", Schema)
	}
	return nil
}

// Check returns nil, or what is wrong with m and how it has to be.
func (m Manifest) Check() error {
	if err := checkSchema(m.Schema); err != nil {
		return err
	}
	switch {
	case m.WireKind() == 0:
		return fmt.Errorf("kind %.80q is neither \"backend\" nor \"transport\"", m.Kind)
	case !wire.ValidName(m.Name):
		return fmt.Errorf("name %.80q is not 1 to 64 of a-z, 0-9 and \"-\"", m.Name)
	case len(m.Version) > maxVersion || !word(m.Version, ".+~-"):
		return fmt.Errorf("version %.80q is not 1 to %d of a-z, A-Z, 0-9 and \".+~-\", beginning with a letter or a digit", m.Version, maxVersion)
	case m.MinCore != "" && (len(m.MinCore) > maxVersion || !isRelease(m.MinCore)):
		return fmt.Errorf("min_core %.80q is not a version such as \"1.2.0\"", m.MinCore)
	case !plain(m.Executable) || m.Executable == ManifestFile || m.Executable == SumsFile:
		return fmt.Errorf("executable %.120q is not the plain name of a file beside %s", m.Executable, ManifestFile)
	}
	for _, f := range []struct {
		key, value string
		most       int
	}{
		{"vendor", m.Vendor, maxPeopleText},
		{"homepage", m.Homepage, maxPeopleText},
		{"license", m.License, maxPeopleText},
		{"sdk_version", m.SDKVersion, maxVersion},
	} {
		if !printable(f.value, f.most) {
			return fmt.Errorf("%s %.80q is not printable text of at most %d bytes", f.key, f.value, f.most)
		}
	}
	return m.checkLists()
}

func (m Manifest) checkLists() error {
	for _, l := range []struct {
		key         string
		has         int
		least, most int
	}{
		{"protocol_versions", len(m.ProtocolVersions), 1, maxProtocols},
		{"platforms", len(m.Platforms), 1, maxPlatforms},
		{"capabilities", len(m.Capabilities), 0, maxCapabilities},
	} {
		if l.has < l.least || l.has > l.most {
			return fmt.Errorf("%s has %d entries, and may have %d to %d", l.key, l.has, l.least, l.most)
		}
	}
	for i, v := range m.ProtocolVersions {
		if v < 1 || v > maxProtocol || slices.Contains(m.ProtocolVersions[:i], v) {
			return fmt.Errorf("protocol version %d is not a number from 1 to %d, or is there twice", v, maxProtocol)
		}
	}
	for i, p := range m.Platforms {
		os, arch, _ := strings.Cut(p, "/")
		if len(p) > maxWord || !wire.ValidName(os) || !wire.ValidName(arch) || slices.Contains(m.Platforms[:i], p) {
			return fmt.Errorf("platform %.80q is not like \"linux/amd64\", or is there twice", p)
		}
	}
	for i, c := range m.Capabilities {
		if len(c) > maxWord || !word(c, "._-") || slices.Contains(m.Capabilities[:i], c) {
			return fmt.Errorf("capability %.80q is not 1 to %d of a-z, A-Z, 0-9 and \"._-\", or is there twice", c, maxWord)
		}
	}
	for i, n := range m.Needs {
		// What is not known can't be granted, and to leave it out would break the plugin.
		if !slices.Contains(Needs, n) || slices.Contains(m.Needs[:i], n) {
			return fmt.Errorf("need %.80q is none of %s, or is there twice", n, strings.Join(Needs, ", "))
		}
	}
	if len(m.Needs) > 1 && slices.Contains(m.Needs, NeedNothing) {
		return fmt.Errorf("needs: %q stands alone", NeedNothing)
	}
	return nil
}

// printable keeps what is shown to people on one line, and short.
func printable(s string, most int) bool {
	return len(s) <= most && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// WireKind is the kind as the wire has it, or 0.
func (m Manifest) WireKind() wire.Kind {
	for _, k := range []wire.Kind{wire.KindBackend, wire.KindTransport} {
		if m.Kind == k.String() {
			return k
		}
	}
	return 0
}

// Folder is what the bundle's folder is called.
func (m Manifest) Folder() string { return FolderName(m.WireKind(), m.Name) }

// String is the plugin and its version, as in "backend memory 1.0".
func (m Manifest) String() string { return m.Kind + " " + m.Name + " " + m.Version }

// Encode writes m as plugin.json, once it has checked it.
func (m Manifest) Encode(w io.Writer) error {
	if err := m.Check(); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrMalformed, ManifestFile, err)
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(data, '\n'))
	return err
}
