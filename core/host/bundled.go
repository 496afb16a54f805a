// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/bundle"
	"github.com/flexnbd/flexnbd/sdk"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// inBundle returns the program in the bundle at path, a folder that nobody else could
// have written.
func inBundle(kind wire.Kind, name, path string) (_ Program, err error) {
	b, err := bundle.Open(path)
	if err != nil {
		return Program{}, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	if b.Manifest.WireKind() != kind || b.Manifest.Name != name {
		return Program{}, fmt.Errorf("%s says that it is %s %s, and its folder is called otherwise: rename the folder to %s",
			bundle.ManifestFile, b.Manifest.Kind, b.Manifest.Name, b.Manifest.Folder())
	}
	if err := Compatible(b.Manifest); err != nil {
		return Program{}, err
	}
	real, err := trusted(b.Executable())
	if err != nil {
		return Program{}, err
	}
	return Program{Kind: kind, Name: name, Path: b.Executable(), Bundle: path, exe: real, args: []string{b.Executable()}}, nil
}

// Compatible returns nil, or why this flexnbd can't run a bundle, and what to do.
func Compatible(m bundle.Manifest) error {
	return m.Compatible(sdk.Version, []int{wire.ProtocolVersion}, runtime.GOOS+"/"+runtime.GOARCH)
}

// executable opens what is executed for a program in a bundle, once its bytes are those
// that the bundle's SHA256SUMS says, and returns the path that leads the child to that
// very file, whatever has its name by then. The caller closes it once the child has
// ended: the interpreter of a script opens it again.
func (p Program) executable() (_ *os.File, path string, err error) {
	b, err := bundle.Open(p.Bundle)
	if err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	f, err := b.OpenExecutable()
	if err != nil {
		return nil, "", err
	}
	// Out of the way of the descriptors that the child gets.
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 10)
	if err != nil {
		return nil, "", errors.Join(err, f.Close())
	}
	high := os.NewFile(uintptr(fd), f.Name())
	begin := make([]byte, 2)
	_, err = f.ReadAt(begin, 0)
	err = errors.Join(err, f.Close())
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, "", errors.Join(err, high.Close())
	}
	if bytes.Equal(begin, []byte("#!")) {
		// Its interpreter, in which descriptors that are closed on exec are gone, finds
		// it in this process.
		return high, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), nil
	}
	return high, fmt.Sprintf("/proc/self/fd/%d", fd), nil
}

// InBundle returns the program in the bundle in a folder, which may be called anything.
func InBundle(m bundle.Manifest, folder string) (Program, error) {
	return at(m.WireKind(), m.Name, folder)
}
