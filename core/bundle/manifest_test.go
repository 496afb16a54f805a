// SPDX-License-Identifier: GPL-3.0-or-later

package bundle

import (
	"bytes"
	"errors"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

func encoded(t testing.TB, m Manifest) string {
	t.Helper()
	var out bytes.Buffer
	if err := m.Encode(&out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestManifestReadsWhatItEncodes(t *testing.T) {
	m, err := ReadManifest(strings.NewReader(encoded(t, manifest())))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(m, manifest()) {
		t.Errorf("got %+v, want %+v", m, manifest())
	}
	if m.WireKind() != wire.KindBackend || m.Folder() != "flexnbd-backend-memory" || m.String() != "backend memory 1.0" {
		t.Errorf("kind %v, folder %s, string %s", m.WireKind(), m.Folder(), m)
	}
}

func TestManifestPassesOverUnknownKeys(t *testing.T) {
	text := strings.Replace(encoded(t, manifest()), "{", `{"signature": {"kind": ["of", 3]}, "signature": null,`, 1)
	if m, err := ReadManifest(strings.NewReader(text)); err != nil || m.Name != "memory" {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestManifestRefusesText(t *testing.T) {
	good := encoded(t, manifest())
	for _, c := range []struct{ text, says string }{
		{"", "unexpected end"},
		{"[]", "cannot unmarshal"},
		{"null", `does not say "schema": 1`},
		{"{}", `does not say "schema": 1`},
		{`{"schema": 2, "kind": {"new": true}}`, "upgrade flexnbd"},
		{`{"schema": -1}`, `does not say "schema": 1`},
		{`{"schema": "1"}`, "cannot unmarshal"},
		{good + "{}", "after top-level value"},
		{good[:len(good)-3], "unexpected end"},
		{strings.Replace(good, "memory", "mem\xffory", 1), "not UTF-8"},
		{strings.Replace(good, "{", `{"Executable": "sh",`, 1), `has to be written "executable"`},
		{strings.Replace(good, "{", `{"executable": "sh",`, 1), "twice"},
		{strings.Replace(good, "{", `{"\u017fchema": 1,`, 1), `has to be written "schema"`},
		{good + strings.Repeat(" ", maxText), "longer than 65536"},
		{`{"schema": 1, "x": ` + strings.Repeat("[", 20000) + "}", "max depth"},
	} {
		_, err := ReadManifest(strings.NewReader(c.text))
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%.60q: %v", c.text, err)
		}
		says(t, err, c.says)
	}
}

func TestManifestRefusesField(t *testing.T) {
	long := strings.Repeat("a", 300)
	for _, c := range []struct {
		change func(*Manifest)
		says   string
	}{
		{func(m *Manifest) { m.Schema = 0 }, "schema"},
		{func(m *Manifest) { m.Schema = 2 }, "upgrade"},
		{func(m *Manifest) { m.Kind = "" }, "kind"},
		{func(m *Manifest) { m.Kind = "unknown" }, "kind"},
		{func(m *Manifest) { m.Name = "" }, "name"},
		{func(m *Manifest) { m.Name = "../etc" }, "name"},
		{func(m *Manifest) { m.Name = "Memory" }, "name"},
		{func(m *Manifest) { m.Version = "" }, "version"},
		{func(m *Manifest) { m.Version = long[:65] }, "version"},
		{func(m *Manifest) { m.Version = "1/0" }, "version"},
		{func(m *Manifest) { m.Version = "1_0" }, "version"},
		{func(m *Manifest) { m.Version = ".." }, "version"},
		{func(m *Manifest) { m.Version = "1 0" }, "version"},
		{func(m *Manifest) { m.Vendor = "two\nlines" }, "vendor"},
		{func(m *Manifest) { m.Vendor = "right\u202eleft" }, "vendor"},
		{func(m *Manifest) { m.Homepage = long }, "homepage"},
		{func(m *Manifest) { m.License = "\x1b[31m" }, "license"},
		{func(m *Manifest) { m.SDKVersion = long[:65] }, "sdk_version"},
		{func(m *Manifest) { m.MinCore = "1.2" }, "min_core"},
		{func(m *Manifest) { m.MinCore = "new" }, "min_core"},
		{func(m *Manifest) { m.MinCore = "1.2.3-\x1b" }, "min_core"},
		{func(m *Manifest) { m.ProtocolVersions = nil }, "protocol_versions"},
		{func(m *Manifest) { m.ProtocolVersions = make([]int, 17) }, "protocol_versions"},
		{func(m *Manifest) { m.ProtocolVersions = []int{0} }, "protocol version 0"},
		{func(m *Manifest) { m.ProtocolVersions = []int{1, 1} }, "twice"},
		{func(m *Manifest) { m.Platforms = nil }, "platforms"},
		{func(m *Manifest) { m.Platforms = []string{"linux"} }, "platform"},
		{func(m *Manifest) { m.Platforms = []string{"linux/../x"} }, "platform"},
		{func(m *Manifest) { m.Platforms = []string{"linux/a", "linux/a"} }, "twice"},
		{func(m *Manifest) { m.Capabilities = []string{"a b"} }, "capability"},
		{func(m *Manifest) { m.Capabilities = make([]string, 65) }, "capabilities"},
		{func(m *Manifest) { m.Executable = "" }, "executable"},
		{func(m *Manifest) { m.Executable = "." }, "executable"},
		{func(m *Manifest) { m.Executable = ".." }, "executable"},
		{func(m *Manifest) { m.Executable = "../sh" }, "executable"},
		{func(m *Manifest) { m.Executable = "/bin/sh" }, "executable"},
		{func(m *Manifest) { m.Executable = "bin/sh" }, "executable"},
		{func(m *Manifest) { m.Executable = "-c" }, "executable"},
		{func(m *Manifest) { m.Executable = ".hidden" }, "executable"},
		{func(m *Manifest) { m.Executable = "plugin.json" }, "executable"},
		{func(m *Manifest) { m.Executable = "SHA256SUMS" }, "executable"},
		{func(m *Manifest) { m.Executable = long[:101] }, "executable"},
	} {
		m := manifest()
		c.change(&m)
		says(t, m.Check(), c.says)
		if err := m.Encode(&bytes.Buffer{}); !errors.Is(err, ErrMalformed) {
			t.Errorf("Encode of %+v: %v", m, err)
		}
	}
}

func TestFileNameIsUnambiguous(t *testing.T) {
	for _, c := range []struct {
		platforms []string
		want      string
	}{
		{[]string{"linux/amd64"}, "flexnbd-backend-memory_1.0_linux_amd64.tar.gz"},
		{[]string{"linux/amd64", "linux/arm64"}, "flexnbd-backend-memory_1.0_linux_all.tar.gz"},
		{[]string{"linux/amd64", "freebsd/arm64"}, "flexnbd-backend-memory_1.0_all_all.tar.gz"},
	} {
		m := manifest()
		m.Platforms = c.platforms
		if got := FileName(m); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}

func TestCompatible(t *testing.T) {
	for _, c := range []struct {
		min, core string
		speaks    []int
		protocols []int
		platform  string
		says      string // nothing: compatible
	}{
		{"0.1.0", "0.1.0", []int{1}, []int{1}, "linux/amd64", ""},
		{"0.1.0", "0.1.0-dev", []int{1}, []int{1}, "linux/amd64", ""},
		{"0.2.0", "v0.2.0-12-g52e544f-dirty", []int{1}, []int{1}, "linux/amd64", ""},
		{"0.9.0", "0.10.0", []int{1}, []int{1}, "linux/amd64", ""},
		{"v0.1.0-rc1", "0.1.0", []int{1}, []int{1}, "linux/amd64", ""},
		{"", "0.0.0", []int{1}, []int{1}, "linux/amd64", ""},
		{"9.0.0", "devel", []int{1}, []int{1}, "linux/amd64", ""},
		{"9.0.0", "52e544f", []int{1}, []int{1}, "linux/amd64", ""},
		{"0.1.0", "0.1.0", []int{3, 2}, []int{1, 2}, "linux/amd64", ""},
		{"0.10.0", "0.9.9", []int{1}, []int{1}, "linux/amd64", "needs flexnbd 0.10.0, and this is 0.9.9: upgrade flexnbd"},
		{"0.2.0", "0.1.0-dev", []int{1}, []int{1}, "linux/amd64", "upgrade flexnbd"},
		{"0.1.0", "0.1.0", []int{2}, []int{1}, "linux/amd64", "speaks version 2 of the plugin protocol, and this flexnbd 1: upgrade flexnbd"},
		{"0.1.0", "0.1.0", []int{1}, []int{3, 2}, "linux/amd64", "this flexnbd 2, 3: get a newer version of the plugin"},
		{"0.1.0", "0.1.0", []int{1}, nil, "linux/amd64", "this flexnbd none"},
		{"0.1.0", "0.1.0", []int{1}, []int{1}, "linux/arm64", "is for linux/amd64, and this is linux/arm64: get its bundle for linux/arm64"},
	} {
		m := manifest()
		m.MinCore, m.ProtocolVersions = c.min, c.speaks
		if err := m.Check(); err != nil {
			t.Fatal(err)
		}
		err := m.Compatible(c.core, c.protocols, c.platform)
		if c.says == "" {
			if err != nil {
				t.Errorf("%+v: %v", c, err)
			}
			continue
		}
		says(t, err, c.says, "backend memory 1.0")
		if !errors.Is(err, ErrIncompatible) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(encoded(f, manifest())))
	f.Add([]byte(`{"schema": 2}`))
	f.Add([]byte(`{"schema": 1, "Schema": 1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ReadManifest(bytes.NewReader(data))
		if err != nil {
			if !errors.Is(err, ErrMalformed) || !printableError(err) {
				t.Fatalf("%q", err)
			}
			return
		}
		again, err := ReadManifest(strings.NewReader(encoded(t, m)))
		if err != nil || again.String() != m.String() || again.Executable != m.Executable {
			t.Fatalf("%+v became %+v, %v", m, again, err)
		}
		if name := FileName(m); len(name) > 255 || strings.Contains(name, "/") || strings.Count(name, "_") != 3 {
			t.Fatalf("file name %q", name)
		}
		_ = m.Compatible(m.Version, m.ProtocolVersions, m.Platforms[0])
	})
}

// printableError says whether an error can be shown in a terminal: what is from
// outside is quoted in it.
func printableError(err error) bool {
	for _, r := range err.Error() {
		if r != '\n' && !strconv.IsPrint(r) {
			return false
		}
	}
	return true
}
