// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

// Stock is a plugin inside the running binary.
type Stock struct {
	Kind wire.Kind
	Name string
	// Args makes the binary run as this plugin; Args[0] is what ps shows.
	Args []string
	// Needs are what it needs besides what it is given; nil: it may do anything.
	Needs *Needs
}

// Program is a plugin that was found and may be started.
type Program struct {
	Kind wire.Kind
	// Name is the plugin's name if it is known before the start, else the
	// name of its file.
	Name string
	// Path is shown to people. A stock plugin's is "builtin".
	Path string
	// Bundle is the folder of the bundle that it is in, or empty. What is executed is
	// then compared with the bundle's SHA256SUMS, at each start.
	Bundle string
	// debugged: the plugin runs under a debugger, and may be silent for as long as
	// somebody looks at it.
	debugged bool
	// exe and args are what is executed. exe has no symbolic link in it that
	// could lead elsewhere by now.
	exe   string
	args  []string
	needs *Needs // nil: it may do anything
	plan  int    // its number with the host's launcher, if there is one
}

// Asked is what --backend or --transport names it by.
func (p Program) Asked() string {
	if filepath.IsAbs(p.Path) && p.Bundle == "" {
		return p.Path
	}
	return p.Name
}

// Waits says whether the plugin is one that waits under a debugger, where everything
// takes as long as somebody looks at it.
func (p Program) Waits() bool { return p.debugged }

// selfExe is this very binary. Its path may name another version by now, after
// an upgrade.
const selfExe = "/proc/self/exe"

// Finder knows where plugins are. Use [SearchPath] for Dirs.
type Finder struct {
	Dirs  []string // searched in this order
	Stock []Stock  // searched last
	// Waiting are plugins that wait under a debugger, which go before all others that
	// are asked for by name: see [Waiting].
	Waiting []Stock
}

// SearchPath returns the folders in which plugins are looked for, first match
// first: dirs (from --plugin-dir), $FLEXNBD_PLUGIN_PATH,
// $XDG_DATA_HOME/flexnbd/plugins (not for root), and the two system folders.
func SearchPath(dirs []string, getenv func(string) string, uid int) ([]string, error) {
	all := slices.Clone(dirs)
	for dir := range strings.SplitSeq(getenv("FLEXNBD_PLUGIN_PATH"), ":") {
		if dir != "" {
			all = append(all, dir)
		}
	}
	if own := ownFolder(getenv); uid != 0 && own != "" {
		all = append(all, own)
	}
	all = append(all, localFolder, "/usr/lib/flexnbd/plugins")
	for i, dir := range all {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return nil, fmt.Errorf("plugin folder %s: %w", dir, err)
		}
		all[i] = abs
	}
	return all, nil
}

// localFolder is where root installs plugins that no package has.
const localFolder = "/usr/local/lib/flexnbd/plugins"

// ownFolder is where a user keeps plugins of his own, or "" if he has no home.
func ownFolder(getenv func(string) string) string {
	data := getenv("XDG_DATA_HOME")
	if home := getenv("HOME"); data == "" && home != "" {
		data = filepath.Join(home, ".local", "share")
	}
	if data == "" {
		return ""
	}
	return filepath.Join(data, "flexnbd", "plugins")
}

// InstallDir is the folder of the search order that a user installs plugins in.
func InstallDir(getenv func(string) string, uid int) (string, error) {
	if uid == 0 {
		return localFolder, nil
	}
	own := ownFolder(getenv)
	if own == "" {
		return "", errors.New("neither $XDG_DATA_HOME nor $HOME says where plugins of your own go; name a folder with --plugin-dir")
	}
	return filepath.Abs(own)
}

// Find returns the program that spec asks for: the first match in the search
// order. A match that must not be run is an error and not passed over, so that
// nobody gets another plugin than the one he sees.
func (f *Finder) Find(spec Spec) (Program, error) {
	if spec.Path != "" {
		return f.at(spec.Kind, strings.TrimPrefix(filepath.Base(spec.Path), prefix(spec.Kind)), spec.Path)
	}
	if !spec.Stock {
		for _, s := range f.Waiting {
			if s.Kind == spec.Kind && s.Name == spec.Name {
				return Program{Kind: s.Kind, Name: s.Name, Path: "waiting", debugged: true, exe: selfExe, args: s.Args}, nil
			}
		}
		for _, dir := range f.Dirs {
			path := filepath.Join(dir, prefix(spec.Kind)+spec.Name)
			if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
				continue
			}
			return f.at(spec.Kind, spec.Name, path)
		}
	}
	for _, s := range f.Stock {
		if s.Kind == spec.Kind && s.Name == spec.Name {
			return Program{Kind: s.Kind, Name: s.Name, Path: "builtin", exe: selfExe, args: s.Args, needs: s.Needs}, nil
		}
	}
	return Program{}, f.unknown(spec)
}

func (f *Finder) at(kind wire.Kind, name, path string) (Program, error) {
	program, err := at(kind, name, path)
	if err != nil {
		return Program{}, fmt.Errorf("%s plugin %s: %w", kind, path, err)
	}
	return program, nil
}

// at returns the program at path: a file, or a bundle's folder.
func at(kind wire.Kind, name, path string) (Program, error) {
	real, err := owned(path)
	if err != nil {
		return Program{}, err
	}
	if st, err := os.Stat(real); err == nil && st.IsDir() {
		return inBundle(kind, name, real)
	}
	if err := runnable(real); err != nil {
		return Program{}, err
	}
	return Program{Kind: kind, Name: name, Path: path, exe: real, args: []string{path}}, nil
}

// prefix is how the file name of a plugin starts.
func prefix(kind wire.Kind) string { return "flexnbd-" + kind.String() + "-" }

// unknown says what there is, and where it was looked for.
func (f *Finder) unknown(spec Spec) error {
	var found []string
	for _, s := range f.Stock {
		if s.Kind == spec.Kind {
			found = append(found, s.Name)
		}
	}
	if spec.Stock {
		return fmt.Errorf("there is no %s %q inside this binary; it has: %s", spec.Kind, spec.Name, list(found))
	}
	for _, dir := range f.Dirs {
		files, _ := filepath.Glob(filepath.Join(globQuote(dir), prefix(spec.Kind)+"*"))
		for _, file := range files {
			name := strings.TrimPrefix(filepath.Base(file), prefix(spec.Kind))
			if wire.ValidName(name) && !slices.Contains(found, name) {
				found = append(found, name)
			}
		}
	}
	slices.Sort(found)
	return fmt.Errorf("unknown %s %q; found: %s; looked in: %s, and inside this binary", spec.Kind, spec.Name, list(found), list(f.Dirs))
}

func list(words []string) string {
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}

var globSpecial = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)

func globQuote(path string) string { return globSpecial.Replace(path) }
