// SPDX-License-Identifier: GPL-3.0-or-later

package bundle

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

// Uninstall removes a plugin's bundle from a plugin folder: all files in the bundle's
// folder, whether SHA256SUMS lists them or not, and the folder. Links in it are removed
// and not followed.
//
// The error is an [ErrNotInstalled] if there is nothing of that name, and an
// [ErrNotBundle] if what is there is something else: a plain binary, a folder whose
// manifest is not of this plugin, or one with other folders in it. Nothing is changed
// then. A damaged bundle whose manifest can be read is removed as well.
func Uninstall(pluginDir string, kind wire.Kind, name string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot uninstall %s %s: %w", kind, name, err)
		}
	}()
	if !wire.ValidName(name) || kind != wire.KindBackend && kind != wire.KindTransport {
		return fmt.Errorf("%w: %.80q is not the name of a plugin: 1 to 64 of a-z, 0-9 and \"-\"", ErrNotInstalled, name)
	}
	p, err := openPlace(pluginDir)
	if err != nil {
		return err
	}
	defer p.close()
	b, err := p.installed(kind, name)
	if err != nil {
		return err
	}
	if b == nil {
		return fmt.Errorf("%w in %s: `flexnbd plugin list` shows what is, and where", ErrNotInstalled, p.dir)
	}
	defer b.close()
	release, _ := hold(b.folder) // keeps it from being swept
	defer release()
	return p.takeAway(b, FolderName(kind, name))
}

// takeAway renames the bundle, so that it is there as a whole or not at all, and then
// removes it.
func (p *place) takeAway(b *resident, name string) error {
	temporary := temporaryName(prefixRemove)
	err := p.rename(name, temporary)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w in %s any more", ErrNotInstalled, p.dir)
	}
	if err != nil {
		return err
	}
	if !p.isNow(temporary, b.folder) {
		// Between our look and the rename somebody put something else there.
		return errors.Join(fmt.Errorf("%s was replaced meanwhile; try again", p.path(name)), p.rename(temporary, name))
	}
	if err := fsync(p.self); err != nil {
		return fmt.Errorf("fsync %s: %w", p.dir, errors.Join(cause(err), p.rename(temporary, name)))
	}
	if err := removeFolder(p.root, temporary); err != nil {
		return fmt.Errorf("it is no longer installed, but its files are still in %s, from where they can be removed: %w", p.path(temporary), err)
	}
	return nil
}
