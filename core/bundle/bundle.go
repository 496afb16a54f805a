// SPDX-License-Identifier: GPL-3.0-or-later

package bundle

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Bundle is an open folder, and what it says of itself. It keeps to that folder
// also when another takes its name.
type Bundle struct {
	Dir      string
	Manifest Manifest
	Sums     Sums

	root *os.Root
	// manifestSum is of the bytes that Manifest was read from.
	manifestSum Digest
}

// Open opens the bundle in dir and reads its manifest and SHA256SUMS. The other files
// it does not look at: see [Bundle.Verify]. dir may be called anything, but is no
// symbolic link, so that nobody gets another bundle than the one he sees. Call
// Close in the end. The error is an [ErrNotBundle] if dir, or one of the two
// files, is not there or not what it should be.
func Open(dir string) (*Bundle, error) {
	root, err := openFolder(dir)
	if err != nil {
		return nil, fmt.Errorf("%w at %s: %w", ErrNotBundle, dir, cause(err))
	}
	return open(root, dir)
}

// open takes over root.
func open(root *os.Root, dir string) (_ *Bundle, err error) {
	b := &Bundle{Dir: dir, root: root}
	defer func() {
		if err != nil {
			_ = root.Close()
			err = fmt.Errorf("%w in %s: %w", ErrNotBundle, dir, err)
		}
	}()
	if b.Manifest, b.manifestSum, err = readManifestIn(root); err != nil {
		return nil, err
	}
	data, err := readText(root, SumsFile)
	if err != nil {
		return nil, err
	}
	if b.Sums, err = ReadSums(bytes.NewReader(data)); err != nil {
		return nil, err
	}
	return b, nil
}

func readManifestIn(root *os.Root) (Manifest, Digest, error) {
	data, err := readText(root, ManifestFile)
	if err != nil {
		return Manifest{}, Digest{}, err
	}
	m, err := ReadManifest(bytes.NewReader(data))
	return m, sha256.Sum256(data), err
}

// readText reads a small file: as much of it as shows that it is too long.
func readText(root *os.Root, name string) ([]byte, error) {
	f, _, err := openRegular(root, name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, cause(err))
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxText+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, cause(err))
	}
	return data, nil
}

// Close lets go of the folder.
func (b *Bundle) Close() error { return b.root.Close() }

// Verify reads every file and returns nil if all that SHA256SUMS lists are there and
// as it says, there is no other, and the executable is one. The error is a
// [*TamperedError] with all of the files that are not, or says what else is
// wrong. It takes as long as it takes to read the bundle.
func (b *Bundle) Verify() error {
	for _, name := range []string{ManifestFile, b.Manifest.Executable} {
		if _, listed := b.Sums[name]; !listed {
			return fmt.Errorf("%w: bundle %s: %s does not list %s, which each bundle has: make it anew with sha256sum",
				ErrTampered, b.Dir, SumsFile, name)
		}
	}
	bad, err := b.compare()
	switch {
	case err != nil:
		return fmt.Errorf("verify bundle %s: %w", b.Dir, err)
	case !bad.empty():
		return bad
	}
	st, err := b.root.Lstat(b.Manifest.Executable)
	if err != nil {
		return fmt.Errorf("verify bundle %s: %w", b.Dir, err)
	}
	if st.Mode()&0o111 == 0 {
		return fmt.Errorf("%w: bundle %s: %s cannot be executed (mode %04o): chmod +x it", ErrTampered, b.Dir, b.Manifest.Executable, st.Mode().Perm())
	}
	return nil
}

// compare finds the files that are not what Sums says.
func (b *Bundle) compare() (*TamperedError, error) {
	bad := &TamperedError{Dir: b.Dir}
	there, err := list(b.root, defaultFiles)
	if err != nil {
		return nil, err
	}
	for _, name := range there {
		if _, listed := b.Sums[name]; !listed && name != SumsFile {
			bad.Extra = append(bad.Extra, name)
		}
	}
	count := tally{Limits: Limits{}.withDefaults()}
	for _, name := range b.Sums.names() {
		f, st, err := openRegular(b.root, name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			bad.Missing = append(bad.Missing, name)
			continue
		case errors.Is(err, errIrregular):
			bad.Irregular = append(bad.Irregular, name)
			continue
		case err != nil:
			return nil, err
		}
		sum, err := Digest{}, count.add(name, st.Size())
		if err == nil {
			sum, err = digest(f, st.Size())
		}
		_ = f.Close()
		if err != nil {
			return nil, err
		}
		if sum != b.Sums[name] {
			bad.Changed = append(bad.Changed, name)
		}
	}
	// What was believed is what was read then, and not what is there now.
	if b.manifestSum != b.Sums[ManifestFile] && !slices.Contains(bad.Changed, ManifestFile) {
		bad.Changed = append(bad.Changed, ManifestFile)
	}
	return bad, nil
}

// digest reads f from where it is, and no more than a file of that size has; one
// that grows meanwhile would never end.
func digest(f io.Reader, size int64) (d Digest, err error) {
	sum := sha256.New()
	if _, err := io.Copy(sum, io.LimitReader(f, size+1)); err != nil {
		return d, err
	}
	sum.Sum(d[:0])
	return d, nil
}

// OpenExecutable opens the executable, and returns it only if its digest is the one
// in SHA256SUMS, else an [ErrTampered]. Run the descriptor (as /proc/PID/fd/N of
// the process that has it), not the name, which may lead to another file by then. It is
// for reading only, at its start, and has O_CLOEXEC: in the child an interpreter of a script
// could not open it any more.
//
// The descriptor holds on to the file, and not to its bytes: whoever may write to
// the file can still write into it between here and execve, from where on Linux
// refuses that with ETXTBSY. Only root and its owner can, as core/host refuses
// files that others may write to; and these could as well replace flexnbd. A copy
// in a sealed memfd would close that gap, for the price of the binary's size in
// memory, and of a /proc/PID/exe that does not say where the plugin came from.
func (b *Bundle) OpenExecutable() (_ *os.File, err error) {
	name := b.Manifest.Executable
	f, st, err := openRegular(b.root, name)
	if err != nil {
		return nil, fmt.Errorf("bundle %s: executable %s: %w", b.Dir, name, cause(err))
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	if st.Size() > defaultFile {
		return nil, fmt.Errorf("bundle %s: %w: %s has more than %d bytes", b.Dir, ErrTooLarge, name, int64(defaultFile))
	}
	sum, err := digest(f, st.Size())
	if err != nil {
		return nil, fmt.Errorf("bundle %s: executable: %w", b.Dir, err)
	}
	if want, listed := b.Sums[name]; !listed || sum != want {
		return nil, &TamperedError{Dir: b.Dir, Changed: []string{name}}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("bundle %s: executable: %w", b.Dir, err)
	}
	return f, nil
}

// Executable is the path of the executable, to be shown.
func (b *Bundle) Executable() string { return filepath.Join(b.Dir, b.Manifest.Executable) }

// cause takes off the operation and the path that package os puts in front: the
// sentence has them.
func cause(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	if l, ok := errors.AsType[*os.LinkError](err); ok {
		return l.Err
	}
	return err
}
