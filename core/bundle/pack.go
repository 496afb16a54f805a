// SPDX-License-Identifier: GPL-3.0-or-later

package bundle

import (
	"archive/tar"
	"compress/gzip"
	"fmt"
	"io"
	"strconv"
	"time"
)

// Pack verifies b and writes it as a tarball, which is to be called
// [FileName](b.Manifest). The same files and the same modTime make the same bytes,
// with the same release of Go: files are sorted, belong to nobody, and are of that
// time, in seconds; the zero Time stands for 1970. See [SourceDate].
//
// After an error w may have part of a tarball.
func Pack(w io.Writer, b *Bundle, modTime time.Time) error {
	if err := b.Verify(); err != nil {
		return err
	}
	if modTime.IsZero() {
		modTime = time.Unix(0, 0)
	}
	p := packing{b: b, modTime: modTime.Truncate(time.Second)}
	if err := p.write(w); err != nil {
		return fmt.Errorf("pack bundle %s: %w", b.Dir, err)
	}
	return nil
}

// packing is one bundle on its way into a tarball.
type packing struct {
	b       *Bundle
	modTime time.Time
	tar     *tar.Writer
}

func (p *packing) write(w io.Writer) error {
	zip, err := gzip.NewWriterLevel(w, gzip.BestCompression) // without a name and a time
	if err != nil {
		return err
	}
	p.tar = tar.NewWriter(zip)
	err = p.tar.WriteHeader(&tar.Header{
		Typeflag: tar.TypeDir,
		Name:     p.b.Manifest.Folder() + "/",
		Mode:     modeFolder,
		ModTime:  p.modTime,
		Format:   tar.FormatUSTAR,
	})
	if err != nil {
		return err
	}
	names, err := list(p.b.root, defaultFiles) // sorted
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := p.file(name); err != nil {
			return err
		}
	}
	if err := p.tar.Close(); err != nil {
		return err
	}
	return zip.Close()
}

func (p *packing) file(name string) error {
	f, st, err := openRegular(p.b.root, name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	mode := int64(modeFile)
	if name == p.b.Manifest.Executable {
		mode = modeExecutable
	}
	err = p.tar.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg,
		Name:     p.b.Manifest.Folder() + "/" + name,
		Size:     st.Size(),
		Mode:     mode,
		ModTime:  p.modTime,
		Format:   tar.FormatUSTAR,
	})
	if err != nil {
		return err
	}
	// What is packed is what is hashed, and not what Verify read a moment ago.
	sum, err := digest(io.TeeReader(f, p.tar), st.Size())
	if err != nil {
		return err
	}
	if want, listed := p.b.Sums[name]; name != SumsFile && (!listed || sum != want) {
		return &TamperedError{Dir: p.b.Dir, Changed: []string{name}}
	}
	return nil
}

// SourceDate is what $SOURCE_DATE_EPOCH says, by which builds agree on the time of what
// they make, or 1970 if it is not set.
func SourceDate(getenv func(string) string) (time.Time, error) {
	const variable = "SOURCE_DATE_EPOCH"
	value := getenv(variable)
	if value == "" {
		return time.Unix(0, 0), nil
	}
	// A ustar header has 33 bits for it.
	seconds, err := strconv.ParseUint(value, 10, 33)
	if err != nil {
		return time.Time{}, fmt.Errorf("$%s %.40q is no number of seconds since 1970", variable, value)
	}
	return time.Unix(int64(seconds), 0), nil
}
