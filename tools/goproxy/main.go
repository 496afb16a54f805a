// SPDX-License-Identifier: GPL-3.0-or-later

// Command goproxy makes a folder that Go takes for a module proxy, with the module of
// the current state of a tree:
//
//	goproxy [-only FOLDER] TREE VERSION FOLDER
//
// With -only the module has that folder's files, without tests, and no others but go.mod
// and the licences.
//
// Whoever builds a plugin with GOPROXY=file:///FOLDER, before the others, gets the SDK
// from there as he would get it from a server. The same tree makes the same bytes.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

func main() {
	only := flag.String("only", "", "leave out what is not in this `folder`")
	flag.Parse()
	if flag.NArg() != 3 {
		fmt.Fprintln(os.Stderr, "usage: goproxy [-only FOLDER] TREE VERSION FOLDER")
		os.Exit(2)
	}
	if err := run(flag.Arg(0), flag.Arg(1), flag.Arg(2), *only); err != nil {
		fmt.Fprintln(os.Stderr, "goproxy:", err)
		os.Exit(1)
	}
}

func run(tree, version, folder, only string) error {
	goMod, err := os.ReadFile(filepath.Join(tree, "go.mod"))
	if err != nil {
		return err
	}
	m := module.Version{Path: modfile.ModulePath(goMod), Version: version}
	files, err := filesOf(tree, only)
	if err != nil {
		return err
	}
	var packed bytes.Buffer
	if err := zip.Create(&packed, m, files); err != nil {
		return err
	}
	info, err := json.Marshal(struct {
		Version string
		Time    time.Time
	}{version, time.Unix(0, 0).UTC()})
	if err != nil {
		return err
	}
	path, err := module.EscapePath(m.Path)
	if err != nil {
		return err
	}
	dir := filepath.Join(folder, filepath.FromSlash(path), "@v")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"list":            []byte(version + "\n"),
		version + ".info": info,
		version + ".mod":  goMod,
		version + ".zip":  packed.Bytes(),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// filesOf are the files of the module: what git knows and does not ignore, or in a
// source tarball everything but what is built. Modules of their own are left out.
func filesOf(tree, only string) (files []zip.File, err error) {
	names, err := tracked(tree)
	if err != nil {
		names, err = walk(tree)
	}
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	for _, name := range names {
		if own(tree, name) && wanted(name, only) {
			files = append(files, file{tree, name})
		}
	}
	return files, nil
}

func tracked(tree string) ([]string, error) {
	out, err := exec.Command("git", "-C", tree, "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		return nil, err
	}
	var names []string
	for name := range strings.SplitSeq(string(out), "\x00") {
		if st, err := os.Lstat(filepath.Join(tree, name)); name != "" && err == nil && st.Mode().IsRegular() {
			names = append(names, name)
		}
	}
	return names, nil
}

func walk(tree string) (names []string, err error) {
	err = filepath.WalkDir(tree, func(path string, entry os.DirEntry, err error) error {
		switch name := entry.Name(); {
		case err != nil:
			return err
		case entry.IsDir() && (name == "bin" || name == "dist" || name == ".git"):
			return filepath.SkipDir
		case path == filepath.Join(tree, "VERSION"): // which git does not have
			return nil
		case entry.Type().IsRegular():
			name, err := filepath.Rel(tree, path)
			names = append(names, filepath.ToSlash(name))
			return err
		}
		return nil
	})
	return names, err
}

// own says whether no folder above the file, up to the tree's, is a module of its own.
func own(tree, name string) bool {
	for dir := filepath.Dir(name); dir != "."; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(tree, dir, "go.mod")); err == nil {
			return false
		}
	}
	return true
}

// wanted says whether -only lets a file in.
func wanted(name, only string) bool {
	switch {
	case only == "", name == "go.mod", filepath.Base(name) == "LICENSE":
		return true
	case strings.HasSuffix(name, "_test.go"), strings.Contains(name, "/testdata/"):
		return false
	}
	return strings.HasPrefix(name, only+"/")
}

// file is one of them.
type file struct{ tree, name string }

func (f file) Path() string                 { return f.name }
func (f file) Lstat() (os.FileInfo, error)  { return os.Lstat(filepath.Join(f.tree, f.name)) }
func (f file) Open() (io.ReadCloser, error) { return os.Open(filepath.Join(f.tree, f.name)) }
