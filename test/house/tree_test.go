// SPDX-License-Identifier: GPL-3.0-or-later

package house

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// root is the top of the source tree.
const root = "../.."

// sourceFiles returns the paths of the tree's Go and proto files, from root,
// with slashes. Hidden folders, bin/ and testdata/ are left out.
func sourceFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	err := fs.WalkDir(os.DirFS(root), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			if path != "." && strings.HasPrefix(name, ".") || path == "bin" || name == "testdata" {
				return fs.SkipDir
			}
			return nil
		}
		if ext := filepath.Ext(name); ext == ".go" || ext == ".proto" {
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 10 {
		t.Fatalf("only %d source files found below %s", len(files), root)
	}
	return files
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(path)))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
