// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

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
	// The folder is owned already; so whoever may not write to these can't replace them.
	for _, file := range []string{bundle.ManifestFile, bundle.SumsFile} {
		if _, err := guarded(filepath.Join(path, file)); err != nil {
			return Program{}, err
		}
	}
	real, err := trusted(b.Executable())
	if err != nil {
		return Program{}, err
	}
	return Program{
		Kind: kind, Name: name, Path: b.Executable(), Bundle: path,
		exe: real, args: []string{b.Executable()}, needs: needsOf(b.Manifest),
	}, nil
}

// Compatible returns nil, or why this flexnbd can't run a bundle, and what to do.
func Compatible(m bundle.Manifest) error {
	return m.Compatible(sdk.Version, []int{wire.ProtocolVersion}, runtime.GOOS+"/"+runtime.GOARCH)
}

// executable opens what is executed for a program in a bundle, once its bytes are those
// that the bundle's SHA256SUMS says, whatever has its name by then. The caller closes it
// once the child has ended: the interpreter of a script opens it again.
func (p Program) executable() (_ *os.File, err error) {
	// As at the first time: by a restart the bundle may be another one.
	if _, err := at(p.Kind, p.Name, p.Bundle); err != nil {
		return nil, err
	}
	b, err := bundle.Open(p.Bundle)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	return b.OpenExecutable()
}

// InBundle returns the program in the bundle in a folder, which may be called anything.
func InBundle(m bundle.Manifest, folder string) (Program, error) {
	return at(m.WireKind(), m.Name, folder)
}
