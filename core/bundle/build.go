// SPDX-License-Identifier: GPL-3.0-or-later

package bundle

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Build makes the bundle folder dir, which must not be there yet, of the files: each
// one's name in the bundle, and the path it is copied from. It adds plugin.json and
// SHA256SUMS. Manifest.Schema may be 0 and Executable empty for what they usually
// are, [Schema] and the folder's name. After an error there is no dir. Close the
// Bundle in the end.
func Build(dir string, m Manifest, files map[string]string) (_ *Bundle, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("build bundle %s: %w", dir, err)
		}
	}()
	m.Schema = cmp.Or(m.Schema, Schema)
	m.Executable = cmp.Or(m.Executable, m.Folder())
	var manifest bytes.Buffer
	if err := m.Encode(&manifest); err != nil {
		return nil, err
	}
	if err := checkFiles(m, files); err != nil {
		return nil, err
	}
	root, remove, err := makeFolder(dir)
	if err != nil {
		return nil, err
	}
	if err := fill(root, m, manifest.Bytes(), files); err != nil {
		return nil, errors.Join(err, remove(), root.Close())
	}
	b, err := open(root, dir)
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	return b, nil
}

func checkFiles(m Manifest, files map[string]string) error {
	for name := range files {
		if !plain(name) || name == ManifestFile || name == SumsFile {
			return fmt.Errorf("%.120q cannot be the name of a file: it has to be 1 to %d of a-z, A-Z, 0-9 and \"._+~-\", and neither %s nor %s, which are made here", name, maxName, ManifestFile, SumsFile)
		}
	}
	if _, ok := files[m.Executable]; !ok {
		return fmt.Errorf("the manifest's executable, %s, is not among the files", m.Executable)
	}
	return nil
}

// fill puts everything into the bundle's empty folder.
func fill(into *os.Root, m Manifest, manifest []byte, files map[string]string) error {
	count := tally{Limits: Limits{}.withDefaults()}
	sums := Sums{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := addFile(into, name, files[name], &count, sums); err != nil {
			return err
		}
	}
	sum, err := addText(into, ManifestFile, manifest, &count)
	if err != nil {
		return err
	}
	sums[ManifestFile] = sum
	var list bytes.Buffer
	if err := sums.Encode(&list); err != nil {
		return err
	}
	if _, err := addText(into, SumsFile, list.Bytes(), &count); err != nil {
		return err
	}
	return setModes(into, m.Executable)
}

// addText makes a file of what was made here.
func addText(into *os.Root, name string, data []byte, count *tally) (Digest, error) {
	if err := count.add(name, int64(len(data))); err != nil {
		return Digest{}, err
	}
	return writeFile(into, name, bytes.NewReader(data))
}

// addFile copies one file from anywhere. The path is the packager's own, so links
// in it are followed.
func addFile(into *os.Root, name, path string, count *tally, sums Sums) error {
	from, size, err := openSource(path)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	if err := count.add(name, size); err != nil {
		return err
	}
	sums[name], err = copyFile(into, name, from, size)
	return err
}

// openSource opens a regular file that somebody named.
func openSource(path string) (*os.File, int64, error) {
	path = filepath.Clean(path)
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe would wait
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w", path, errIrregular)
	}
	if err != nil {
		_ = f.Close()
		return nil, 0, err
	}
	return f, st.Size(), nil
}
