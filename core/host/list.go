// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

// Found is something that looks like a plugin, or is one.
type Found struct {
	Kind wire.Kind
	Name string
	// Path is that of the file or of the bundle's folder, "builtin", or "waiting" for
	// one that waits under a debugger.
	Path string
	// ShadowedBy is the path of the plugin that is taken instead of this one, because
	// it is found first. Empty: this is the one.
	ShadowedBy string
	// Program may be started, if Problem is nil.
	Program Program
	// Problem is why this can't be used, and what to do.
	Problem error
}

// List returns everything in the search order that is called as a plugin is, by kind
// and name, each in the order in which it is found. A folder that is not there has none;
// one that can't be read is in problems.
func (f *Finder) List() (list []Found, problems []error) {
	for _, dir := range f.Dirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !os.IsNotExist(err) {
			problems = append(problems, err)
		}
		for _, e := range entries {
			if found, ok := look(dir, e.Name()); ok {
				list = append(list, found)
			}
		}
	}
	for _, s := range f.Waiting {
		list = slices.Insert(list, 0, Found{
			Kind: s.Kind, Name: s.Name, Path: "waiting",
			Program: Program{Kind: s.Kind, Name: s.Name, Path: "waiting", debugged: true, exe: selfExe, args: s.Args},
		})
	}
	for _, s := range f.Stock {
		list = append(list, Found{
			Kind: s.Kind, Name: s.Name, Path: "builtin",
			Program: Program{Kind: s.Kind, Name: s.Name, Path: "builtin", exe: selfExe, args: s.Args},
		})
	}
	shadow(list)
	slices.SortStableFunc(list, func(a, b Found) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return list, problems
}

// look finds out what is called file in dir.
func look(dir, file string) (found Found, ok bool) {
	kind, name, ok := NameOf(file)
	if !ok {
		return Found{}, false
	}
	found = Found{Kind: kind, Name: name, Path: filepath.Join(dir, file)}
	found.Program, found.Problem = at(kind, name, found.Path)
	return found, true
}

// NameOf says which plugin is in a file or folder that is called flexnbd-KIND-NAME.
func NameOf(path string) (kind wire.Kind, name string, ok bool) {
	for _, kind := range []wire.Kind{wire.KindBackend, wire.KindTransport} {
		if name, ok := strings.CutPrefix(filepath.Base(path), prefix(kind)); ok && wire.ValidName(name) {
			return kind, name, true
		}
	}
	return 0, "", false
}

// shadow notes which plugins are behind another one of the same kind and name.
func shadow(list []Found) {
	type key struct {
		kind wire.Kind
		name string
	}
	first := map[key]string{}
	for i, p := range list {
		k := key{p.Kind, p.Name}
		if by, taken := first[k]; taken {
			list[i].ShadowedBy = by
		} else {
			first[k] = p.Path
		}
	}
}
