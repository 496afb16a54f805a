// SPDX-License-Identifier: GPL-3.0-or-later

package bundle

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxOverhead is how many bytes of a tarball may be something else than files:
// headers, and zeroes at the end.
const maxOverhead = 1 << 20

// Unpack makes the folder dir, which must not be there yet, of a bundle's tarball. It
// takes only what a bundle has: one folder, called as the manifest says, with
// regular files of plain names in it. Links, devices, sparse files, names that lead
// elsewhere, names that are there twice and anything after the archive's end
// are an [ErrMalformed]; more than limits allow is an [ErrTooLarge], as soon as that is
// certain. After an error there is no dir.
//
// The executable is 0755 and all else 0644, and everything belongs to who runs this,
// whatever the tarball says. Digests are not compared: see [Open] and
// [Bundle.Verify].
func Unpack(r io.Reader, dir string, limits Limits) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("unpack bundle to %s: %w", dir, err)
		}
	}()
	root, remove, err := makeFolder(dir)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, remove())
		}
		_ = root.Close()
	}()
	return unpack(r, root, limits)
}

// makeFolder makes a folder that was not there. remove takes it away again.
func makeFolder(dir string) (root *os.Root, remove func() error, err error) {
	dir = filepath.Clean(dir)
	above, err := os.OpenRoot(filepath.Dir(dir))
	if err != nil {
		return nil, nil, err
	}
	name := filepath.Base(dir)
	if err := above.Mkdir(name, modeMaking); err != nil {
		_ = above.Close()
		return nil, nil, err
	}
	root, err = openSubfolder(above, name)
	if err != nil {
		_ = above.Close()
		return nil, nil, err
	}
	_ = above.Close()
	return root, func() error {
		above, err := os.OpenRoot(filepath.Dir(dir))
		if err != nil {
			return err
		}
		defer func() { _ = above.Close() }()
		return removeFolder(above, name)
	}, nil
}

// unpack fills an empty folder. After an error some files are in it.
func unpack(r io.Reader, into *os.Root, limits Limits) error {
	zip, err := gzip.NewReader(r)
	if err != nil {
		return fmt.Errorf("%w: it is no gzipped tarball: %w", ErrMalformed, err)
	}
	u := unpacking{
		into:  into,
		count: tally{Limits: limits.withDefaults()},
		raw:   &budget{r: zip, left: maxOverhead},
	}
	if err := u.entries(); err != nil {
		return err
	}
	m, _, err := readManifestIn(into)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: there is no %s in it", ErrMalformed, ManifestFile)
	case err != nil:
		return err
	case u.top != m.Folder():
		return fmt.Errorf("%w: its folder is called %s, and has to be called %s, as its manifest is of %s", ErrMalformed, u.top, m.Folder(), m)
	}
	return setModes(into, m.Executable)
}

// unpacking is one tarball on its way into a folder.
type unpacking struct {
	into  *os.Root
	count tally
	raw   *budget // the unzipped tarball

	top   string // the one folder in it, once it is known
	isDir bool   // an entry for that folder has been there
}

func (u *unpacking) entries() error {
	t := tar.NewReader(u.raw)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return damaged(err)
		}
		if err := u.entry(h, t); err != nil {
			return err
		}
	}
	return u.end()
}

// entry checks one entry's header, and makes its file.
func (u *unpacking) entry(h *tar.Header, content io.Reader) error {
	refused := func(why string) error {
		return fmt.Errorf("%w: entry %.120q %s", ErrMalformed, h.Name, why)
	}
	top, name, isFile := strings.Cut(h.Name, "/")
	switch {
	case !isFile, !plain(top), name != "" && !plain(name):
		return refused("is not FOLDER/ or FOLDER/FILE with plain names")
	case u.top != "" && top != u.top:
		return refused("is not in folder " + u.top + ", as the others are")
	}
	u.top = top
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return refused("is a sparse file: pack it without --sparse")
		}
	}
	switch {
	case h.Typeflag == tar.TypeDir && name == "":
		if u.isDir {
			return refused("is there twice")
		}
		u.isDir = true
		return nil
	case h.Typeflag != tar.TypeReg || name == "":
		return refused(fmt.Sprintf("is neither a regular file nor the folder of the bundle (type %q)", h.Typeflag))
	}
	if err := u.count.add(name, h.Size); err != nil {
		return err
	}
	u.raw.left += h.Size
	_, err := writeFile(u.into, name, content)
	if errors.Is(err, fs.ErrExist) {
		return refused("is there twice")
	}
	return damaged(err)
}

// end reads what follows the last entry, which is zeroes and gzip's own checksum.
func (u *unpacking) end() error {
	buf := make([]byte, 32<<10)
	for {
		n, err := u.raw.Read(buf)
		for _, b := range buf[:n] {
			if b != 0 {
				return fmt.Errorf("%w: something follows the end of the tar archive", ErrMalformed)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return damaged(err)
		}
	}
}

// damaged tells a tarball that cannot be read from one that cannot be written, or is
// too large.
func damaged(err error) error {
	_, isPath := errors.AsType[*fs.PathError](err)
	if err == nil || isPath || errors.Is(err, ErrTooLarge) {
		return err
	}
	return fmt.Errorf("%w: the tarball is damaged or cut short: %w", ErrMalformed, err)
}

// budget is a reader that ends with ErrTooLarge after left bytes. Files are added to it
// as they are met, so a tarball that goes on with anything else ends soon.
type budget struct {
	r    io.Reader
	left int64
}

func (b *budget) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, b.err()
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, b.err()
	}
	return n, err
}

func (b *budget) err() error {
	return fmt.Errorf("%w: more than %d bytes of the tarball are headers, or follow its end", ErrTooLarge, maxOverhead)
}
