// SPDX-License-Identifier: GPL-3.0-or-later

package bundle

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// errIrregular: something that is not a regular file is not opened at all. To open
// a device may do things, and a pipe waits.
var errIrregular = errors.New("not a regular file")

const (
	modeFile       = 0o644
	modeExecutable = 0o755
	modeFolder     = 0o755
	modeMaking     = 0o700 // of a folder that is not complete
)

// openFolder opens the folder at path. The last part of path is no symbolic link;
// the others may be.
func openFolder(path string) (*os.Root, error) {
	path = filepath.Clean(path) // "link/" would be followed
	before, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !before.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: path, Err: unix.ENOTDIR}
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return sameFolder(root, before)
}

// openSubfolder is openFolder for a folder inside another.
func openSubfolder(in *os.Root, name string) (*os.Root, error) {
	before, err := in.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !before.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: filepath.Join(in.Name(), name), Err: unix.ENOTDIR}
	}
	root, err := in.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	return sameFolder(root, before)
}

// sameFolder closes root if it is not the one that Lstat saw. An os.Root stays
// inside its folder, but there follows symbolic links: between Lstat and opening
// somebody may have put one there.
func sameFolder(root *os.Root, before fs.FileInfo) (*os.Root, error) {
	after, err := root.Stat(".")
	if err == nil && !os.SameFile(before, after) {
		err = fmt.Errorf("%s was replaced while it was opened", root.Name())
	}
	if err != nil {
		_ = root.Close()
		return nil, err
	}
	return root, nil
}

// openRegular opens a file of the folder for reading. It is [errIrregular] if it is
// a symbolic link, also one to a file in the same folder.
func openRegular(in *os.Root, name string) (*os.File, fs.FileInfo, error) {
	before, err := in.Lstat(name)
	if err != nil {
		return nil, nil, err
	}
	if !before.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s: %w", filepath.Join(in.Name(), name), errIrregular)
	}
	f, err := in.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	after, err := f.Stat()
	if err == nil && !os.SameFile(before, after) {
		err = fmt.Errorf("%s was replaced while it was opened", f.Name())
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, after, nil
}

// createFile makes a file that was not there, for writing.
func createFile(in *os.Root, name string) (*os.File, error) {
	return in.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

// writeFile makes a file of what r has, to the end, and returns its digest.
func writeFile(in *os.Root, name string, r io.Reader) (d Digest, err error) {
	f, err := createFile(in, name)
	if err != nil {
		return d, err
	}
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, sum), r)
	if err = errors.Join(err, f.Close()); err != nil {
		return d, err
	}
	sum.Sum(d[:0])
	return d, nil
}

// copyFile copies an open regular file of that size into the folder.
func copyFile(in *os.Root, name string, from io.Reader, size int64) (Digest, error) {
	// One byte more shows a file that is growing.
	counted := &io.LimitedReader{R: from, N: size + 1}
	d, err := writeFile(in, name, counted)
	if err == nil && counted.N != 1 {
		err = fmt.Errorf("%s changed while it was copied; try again", name)
	}
	return d, err
}

// list returns the names in a folder, sorted, or ErrTooLarge if there are more
// than most.
func list(in *os.Root, most int) ([]string, error) {
	f, err := in.Open(".")
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var all []string
	for {
		some, err := f.Readdirnames(most + 1)
		if all = append(all, some...); len(all) > most {
			return nil, fmt.Errorf("%w: %s has more than %d files", ErrTooLarge, in.Name(), most)
		}
		if errors.Is(err, io.EOF) {
			slices.Sort(all)
			return all, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// setModes makes the executable executable, and everything readable, whatever
// the umask is and whatever a tarball says.
func setModes(in *os.Root, executable string) error {
	names, err := list(in, defaultFiles)
	if err != nil {
		return err
	}
	for _, name := range names {
		mode := fs.FileMode(modeFile)
		if name == executable {
			mode = modeExecutable
		}
		f, _, err := openRegular(in, name)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Chmod(mode), f.Close()); err != nil {
			return err
		}
	}
	return withSelf(in, func(f *os.File) error { return f.Chmod(modeFolder) })
}

// fsync is (*os.File).Sync, which tests let fail.
var fsync = (*os.File).Sync

// syncFiles makes the folder's files durable, and their names in it; not the
// folder's own name.
func syncFiles(in *os.Root) error {
	names, err := list(in, defaultFiles)
	if err != nil {
		return err
	}
	for _, name := range names {
		f, _, err := openRegular(in, name)
		if err != nil {
			return err
		}
		if err := errors.Join(fsync(f), f.Close()); err != nil {
			return err
		}
	}
	return syncFolder(in)
}

// syncFolder makes the names in the folder durable.
func syncFolder(in *os.Root) error {
	return withSelf(in, fsync)
}

func withSelf(in *os.Root, do func(*os.File) error) error {
	f, err := in.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(do(f), f.Close())
}

// removable returns an error if the folder has something in it that no bundle has,
// such as another folder. Symbolic links are fine: they are removed, and what they
// lead to is not.
func removable(in *os.Root) error {
	names, err := list(in, maxRemoved)
	if err != nil {
		return err
	}
	for _, name := range names {
		st, err := in.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if t := st.Mode().Type(); t != 0 && t != fs.ModeSymlink {
			return fmt.Errorf("%w: there is %q in %s, which is neither a file nor a link and does not belong there: move it away first", ErrNotBundle, name, in.Name())
		}
	}
	return nil
}

// maxRemoved is how many files a folder may have that is removed. A bundle has
// fewer; a folder with that many is something else.
const maxRemoved = 1024

// removeFolder removes a folder and the files in it, if [removable] allows. What
// is gone already does not matter.
func removeFolder(in *os.Root, name string) error {
	root, err := openSubfolder(in, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	if err := removable(root); err != nil {
		return err
	}
	files, err := list(root, maxRemoved)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := root.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := in.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
