// SPDX-License-Identifier: GPL-3.0-or-later

package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// InstallOptions say how to install.
type InstallOptions struct {
	// Replace allows to replace the same plugin, in whatever version it is there.
	Replace bool
	// Check, if it is set, is called with the bundle in its temporary folder, after
	// it was verified and before anybody else sees it. Its error ends the
	// installation. It may run the executable, from [Bundle.OpenExecutable];
	// it must not change files, and the Bundle is Install's to close.
	Check func(*Bundle) error
}

// Install puts the bundle at source, a folder or a tarball, into a plugin folder, which
// has to be there, and returns the installed bundle, to be closed. source is copied
// and stays. The bundle has passed [Bundle.Verify] and Check; its folder is called as its
// manifest says, whatever source is called; it is durable.
//
// If the plugin is there already, in this or another version, the error is an
// [ErrInstalled], unless Replace is set; then new and old are exchanged in one
// step, and the old one is removed. What is in its place and no bundle of this
// plugin, such as a plain binary, is never touched: [ErrNotBundle]. After an error the
// plugin folder is as it was.
func Install(source, pluginDir string, opts InstallOptions) (_ *Bundle, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot install %s: %w", source, err)
		}
	}()
	p, err := openPlace(pluginDir)
	if err != nil {
		return nil, err
	}
	defer p.close()
	p.sweep(time.Now())

	temporary, folder, release, err := p.makeTemporary()
	if err != nil {
		return nil, err
	}
	defer release()
	// On success this is the old bundle, if there was one. What cannot be removed of
	// it is swept another time.
	defer func() { _ = removeFolder(p.root, temporary) }()

	if err := copySource(source, folder); err != nil {
		_ = folder.Close()
		return nil, err
	}
	b, err := open(folder, source) // whose faults they are, and which stays
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = b.Close()
		}
	}()
	if err := p.admit(b, opts.Replace); err != nil {
		return nil, err
	}
	b.Dir = p.path(temporary)
	if opts.Check != nil {
		if err := opts.Check(b); err != nil {
			return nil, err
		}
	}
	if err := syncFiles(b.root); err != nil {
		return nil, fmt.Errorf("fsync %s: %w", b.Dir, err)
	}
	if err := p.putInPlace(b, temporary, opts.Replace); err != nil {
		return nil, err
	}
	b.Dir = p.path(b.Manifest.Folder())
	return b, nil
}

// admit checks what is about to be installed, the quick checks first: a large bundle
// takes a second to verify.
func (p *place) admit(b *Bundle, replace bool) error {
	old, err := p.installed(b.Manifest.WireKind(), b.Manifest.Name)
	if err != nil {
		return err
	}
	if old != nil {
		defer old.close()
		if !replace {
			return p.alreadyThere(old, b)
		}
	}
	return b.Verify()
}

func (p *place) alreadyThere(old *resident, b *Bundle) error {
	what := "this is the same version, " + b.Manifest.Version
	if old.manifest.Version != b.Manifest.Version {
		what = "this is version " + b.Manifest.Version
	}
	return fmt.Errorf("%s is %w in %s, and %s: use --replace to replace it", old.manifest, ErrInstalled, p.dir, what)
}

// putInPlace gives the bundle its name, durably. After it, temporary is the old
// bundle, if there was one; after an error everything is as before.
func (p *place) putInPlace(b *Bundle, temporary string, replace bool) error {
	name := b.Manifest.Folder()
	// Others may install and uninstall meanwhile, so that which of the two ways it is
	// can change.
	for range maxTries {
		old, err := p.installed(b.Manifest.WireKind(), b.Manifest.Name)
		switch {
		case err != nil:
			return err
		case old == nil:
			err = p.putNew(b, temporary, name)
			if errors.Is(err, fs.ErrExist) {
				continue
			}
			return err
		case !replace:
			defer old.close()
			return p.alreadyThere(old, b)
		}
		old.close()
		err = p.putInstead(b, temporary, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return err
	}
	return p.busy(name)
}

func (p *place) putNew(b *Bundle, temporary, name string) error {
	if err := p.rename(temporary, name); err != nil {
		return err
	}
	if err := fsync(p.self); err != nil {
		if p.isNow(name, b.root) {
			err = errors.Join(err, p.rename(name, temporary))
		}
		return fmt.Errorf("fsync %s: %w", p.dir, cause(err))
	}
	return nil
}

func (p *place) putInstead(b *Bundle, temporary, name string) error {
	if err := p.exchange(temporary, name); err != nil {
		return err
	}
	// Somebody may have put something else there since we looked. A bundle of this
	// plugin, which another has just installed, is replaced like any other: the
	// later one wins. All else is not ours to remove.
	if old, err := p.resident(temporary, b.Manifest.WireKind(), b.Manifest.Name); err != nil {
		return errors.Join(err, p.exchange(temporary, name))
	} else if old != nil {
		old.close()
	}
	if err := fsync(p.self); err != nil {
		if p.isNow(name, b.root) {
			err = errors.Join(err, p.exchange(temporary, name))
		}
		return fmt.Errorf("fsync %s: %w", p.dir, cause(err))
	}
	return nil
}

// copySource fills an empty folder from a tarball or another folder.
func copySource(source string, into *os.Root) error {
	st, err := os.Stat(source)
	if err != nil {
		return cause(err)
	}
	if st.IsDir() {
		return copyFolder(source, into)
	}
	f, _, err := openSource(source)
	if err != nil {
		return cause(err)
	}
	defer func() { _ = f.Close() }()
	return unpack(f, into, Limits{})
}

// copyFolder copies every file, also one that does not belong there, which is then
// found by Verify.
func copyFolder(source string, into *os.Root) error {
	from, err := os.OpenRoot(source) // a link to it is the operator's own
	if err != nil {
		return cause(err)
	}
	defer func() { _ = from.Close() }()
	m, _, err := readManifestIn(from)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotBundle, err)
	}
	names, err := list(from, defaultFiles)
	if err != nil {
		return err
	}
	count := tally{Limits: Limits{}.withDefaults()}
	for _, name := range names {
		if err := copyOne(from, into, name, &count); err != nil {
			return err
		}
	}
	return setModes(into, m.Executable)
}

func copyOne(from, into *os.Root, name string, count *tally) error {
	f, st, err := openRegular(from, name)
	if err != nil {
		if errors.Is(err, errIrregular) {
			return fmt.Errorf("%w: %w", ErrTampered, err)
		}
		return err
	}
	defer func() { _ = f.Close() }()
	if err := count.add(name, st.Size()); err != nil {
		return err
	}
	_, err = copyFile(into, name, f, st.Size())
	return err
}
