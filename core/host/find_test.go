// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

func TestSearchPathOrder(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{
		"FLEXNBD_PLUGIN_PATH": "/env/1::/env/2", "XDG_DATA_HOME": "/xdg", "HOME": "/home/u",
	}
	system := []string{"/usr/local/lib/flexnbd/plugins", "/usr/lib/flexnbd/plugins"}
	for name, c := range map[string]struct {
		env  map[string]string
		uid  int
		want []string
	}{
		"user":             {env, 1000, []string{"/a", wd + "/b", "/env/1", "/env/2", "/xdg/flexnbd/plugins"}},
		"root":             {env, 0, []string{"/a", wd + "/b", "/env/1", "/env/2"}},
		"no XDG_DATA_HOME": {map[string]string{"HOME": "/home/u"}, 1000, []string{"/a", wd + "/b", "/home/u/.local/share/flexnbd/plugins"}},
		"empty":            {nil, 1000, []string{"/a", wd + "/b"}},
	} {
		getenv := func(key string) string { return c.env[key] }
		got, err := SearchPath([]string{"/a", "b"}, getenv, c.uid)
		if want := append(c.want, system...); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v, want %v", name, got, err, want)
		}
	}
}

// folder makes a folder that is trusted, below /tmp, whose sticky bit is
// accepted.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "host-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// put makes an executable file.
func put(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

var stockFile = Stock{Kind: wire.KindBackend, Name: "file", Args: []string{"flexnbd", "run"}}

func TestFirstMatchInTheSearchOrderIsFound(t *testing.T) {
	first, second := folder(t), folder(t)
	f := &Finder{Dirs: []string{"/does/not/exist", first, second}, Stock: []Stock{stockFile, {Kind: wire.KindTransport, Name: "tcp"}}}
	backend := func(text string) (Program, error) {
		spec, err := ParseSpec(wire.KindBackend, text)
		if err != nil {
			t.Fatal(err)
		}
		return f.Find(spec)
	}
	check := func(text, path string) {
		t.Helper()
		p, err := backend(text)
		if err != nil || p.Path != path || p.Name != "file" || p.Kind != wire.KindBackend {
			t.Errorf("%s: %+v, %v, want %s", text, p, err, path)
		}
	}
	check("file", "builtin")
	low := put(t, filepath.Join(second, "flexnbd-backend-file"), "")
	check("file", low)
	high := put(t, filepath.Join(first, "flexnbd-backend-file"), "")
	check("file", high)
	check("builtin:file", "builtin")
	check(low, low)

	if p, _ := backend("builtin:file"); p.exe != "/proc/self/exe" || !slices.Equal(p.args, stockFile.Args) {
		t.Errorf("a stock plugin is run as %s %v", p.exe, p.args)
	}
	// One that must not be run hides those behind it.
	if err := os.Chmod(high, 0o722); err != nil {
		t.Fatal(err)
	}
	if p, err := backend("file"); err == nil || !strings.Contains(err.Error(), high) {
		t.Errorf("%+v, %v, want an error about %s", p, err, high)
	}
}

func TestUnknownPluginListsWhatThereIsAndWhereItLooked(t *testing.T) {
	dir := folder(t)
	odd := filepath.Join(dir, "a[b]*")
	if err := os.Mkdir(odd, 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "flexnbd-backend-zeta"), "")
	put(t, filepath.Join(dir, "flexnbd-backend-NOT"), "")
	put(t, filepath.Join(dir, "flexnbd-transport-tls"), "")
	put(t, filepath.Join(odd, "flexnbd-backend-alpha"), "")
	f := &Finder{Dirs: []string{dir, odd}, Stock: []Stock{stockFile}}
	_, err := f.Find(Spec{Kind: wire.KindBackend, Name: "fil"})
	want := `unknown backend "fil"; found: alpha, file, zeta; looked in: ` + dir + ", " + odd + ", and inside this binary"
	if err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
	_, err = f.Find(Spec{Kind: wire.KindBackend, Name: "zeta", Stock: true})
	if want := `there is no backend "zeta" inside this binary; it has: file`; err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
	_, err = f.Find(Spec{Kind: wire.KindTransport, Name: "x", Stock: true})
	if err == nil || !strings.HasSuffix(err.Error(), "it has: none") {
		t.Errorf("%v", err)
	}
}

func TestUntrustedPluginIsRefusedWithTheReason(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("not root: files of another owner can't be made")
	}
	good := put(t, filepath.Join(folder(t), "good"), "")
	in := func(mode fs.FileMode, prepare func(path string)) string {
		dir := folder(t)
		path := put(t, filepath.Join(dir, "p"), "")
		if prepare != nil {
			prepare(path)
		}
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	replace := func(target string) func(string) {
		return func(path string) {
			must(os.Remove(path))
			must(os.Symlink(target, path))
		}
	}
	chmod := func(mode fs.FileMode) func(string) { return func(path string) { must(os.Chmod(path, mode)) } }
	cases := map[string]struct{ path, want string }{
		"group may write":            {in(0o700, chmod(0o770)), "can be written by its group"},
		"everyone may write":         {in(0o700, chmod(0o702)), "chmod go-w it"},
		"folder of everyone":         {in(0o777, nil), "host-test-"},
		"folder of the group":        {in(0o770, nil), "mode 0770"},
		"not executable":             {in(0o700, chmod(0o600)), "chmod +x it"},
		"a folder":                   {filepath.Dir(good), "no plugin bundle"},
		"link to everyone's file":    {in(0o700, replace(in(0o700, chmod(0o777)))), "can be written"},
		"link in everyone's folder":  {in(0o777, replace(good)), "can be written"},
		"link into such a folder":    {in(0o700, replace(in(0o777, nil))), "can be written"},
		"link through such a folder": {in(0o700, replace(in(0o777, replace(good)))), "can be written"},
		"link to a device":           {in(0o700, replace("/dev/zero")), "refused"},
		"link to nothing":            {in(0o700, replace("/does/not/exist")), "no such file"},
		"links in a circle":          {in(0o700, func(path string) { replace(path)(path) }), "too many levels"},
		"not there":                  {"/does/not/exist", "no such file"},
		"below a file":               {filepath.Join(good, "x"), "not a directory"},
	}
	if os.Geteuid() == 0 {
		own := func(path string) { must(os.Lchown(path, 12345, 12345)) }
		cases["somebody's file"] = struct{ path, want string }{in(0o700, own), "belongs to user 12345"}
		cases["somebody's folder"] = struct{ path, want string }{in(0o700, func(path string) { own(filepath.Dir(path)) }), "belongs to user 12345"}
		cases["somebody's link"] = struct{ path, want string }{in(0o700, func(path string) { replace(good)(path); own(path) }), "belongs to user 12345"}
	}
	for name, c := range cases {
		_, err := (&Finder{}).Find(Spec{Kind: wire.KindBackend, Path: c.path})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "backend plugin "+c.path) {
			t.Errorf("%s: %v, want an error about %q", name, err, c.want)
		}
	}
	if _, err := (&Finder{}).Find(Spec{Kind: wire.KindBackend, Path: "/does/not/exist"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestTrustedLinkIsResolvedBeforeItIsRun(t *testing.T) {
	real := put(t, filepath.Join(folder(t), "real"), "")
	dir := folder(t)
	for name, target := range map[string]string{"absolute": real, "relative": "../" + filepath.Base(filepath.Dir(real)) + "/./real"} {
		link := filepath.Join(dir, name)
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		p, err := (&Finder{}).Find(Spec{Kind: wire.KindBackend, Path: link})
		if err != nil || p.Path != link || p.exe != real {
			t.Errorf("%s: %+v, %v, want %s to be run", name, p, err, real)
		}
	}
}
