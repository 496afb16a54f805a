// SPDX-License-Identifier: GPL-3.0-or-later

package bundle

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

// place is a plugin folder, in which bundles are installed.
type place struct {
	dir  string
	root *os.Root
	self *os.File // for what os.Root cannot do
}

// openPlace opens a plugin folder in which plugins may be put so that flexnbd
// would run them. core/host has the full check, at the time when it counts.
func openPlace(dir string) (*place, error) {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("plugin folder %s is not there: make it with mkdir -p, or name another: %w", dir, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("plugin folder %s: %w", dir, cause(err))
	}
	p := &place{dir: dir, root: root}
	if p.self, err = root.Open("."); err == nil {
		err = p.check()
	}
	if err != nil {
		p.close()
		return nil, fmt.Errorf("plugin folder %s: %w", dir, cause(err))
	}
	return p, nil
}

func (p *place) check() error {
	var st unix.Stat_t
	if err := unix.Fstat(int(p.self.Fd()), &st); err != nil {
		return err
	}
	switch {
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("it belongs to user %d, so flexnbd would not run what is in it; it has to belong to root or to the user who runs flexnbd", st.Uid)
	case st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0:
		return fmt.Errorf("it can be written by its group or by everyone (mode %04o), so flexnbd would not run what is in it; chmod go-w it", st.Mode&0o7777)
	}
	return nil
}

func (p *place) close() {
	_ = p.root.Close()
	if p.self != nil {
		_ = p.self.Close()
	}
}

func (p *place) path(name string) string { return filepath.Join(p.dir, name) }

// Names of what is being installed or removed. Sixteen hexadecimal digits follow.
// No plugin is called like this, so whoever looks for plugins passes it over.
const (
	prefixInstall = ".install-"
	prefixRemove  = ".remove-"
	randomBytes   = 8
)

// abandoned is how old a folder of these has to be before it is taken for one that
// a killed process left over. One that somebody works in is locked besides.
const abandoned = time.Hour

func temporaryName(prefix string) string {
	var random [randomBytes]byte
	_, _ = rand.Read(random[:]) // never fails: it ends the program instead
	return prefix + hex.EncodeToString(random[:])
}

func isTemporary(name string) bool {
	for _, prefix := range []string{prefixInstall, prefixRemove} {
		if digits, ok := strings.CutPrefix(name, prefix); ok && len(digits) == hex.EncodedLen(randomBytes) {
			_, err := hex.DecodeString(digits)
			return err == nil
		}
	}
	return false
}

// hold keeps other processes from sweeping a folder until release. Where the file
// system cannot lock folders nobody sweeps either, so it does not matter if this
// fails.
func hold(folder *os.Root) (release func(), held bool) {
	f, err := folder.Open(".")
	if err != nil {
		return func() {}, false
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	return func() { _ = f.Close() }, err == nil
}

// makeTemporary makes a folder beside the bundles, which is held until release.
func (p *place) makeTemporary() (name string, folder *os.Root, release func(), err error) {
	name = temporaryName(prefixInstall)
	if err := p.root.Mkdir(name, modeMaking); err != nil {
		return "", nil, nil, fmt.Errorf("make a folder in %s: %w", p.dir, cause(err))
	}
	folder, err = openSubfolder(p.root, name)
	if err != nil {
		_ = p.root.Remove(name)
		return "", nil, nil, err
	}
	release, _ = hold(folder)
	return name, folder, release, nil
}

// sweep removes what killed processes of this user left over. What cannot be
// removed is left there: it is in nobody's way.
func (p *place) sweep(now time.Time) {
	entries, err := fs.ReadDir(p.root.FS(), ".")
	if err != nil {
		return
	}
	for _, e := range entries {
		if isTemporary(e.Name()) {
			p.sweepOne(e.Name(), now)
		}
	}
}

func (p *place) sweepOne(name string, now time.Time) {
	folder, err := openSubfolder(p.root, name)
	if err != nil {
		return
	}
	defer func() { _ = folder.Close() }()
	st, err := folder.Stat(".")
	if err != nil || now.Sub(st.ModTime()) < abandoned {
		return
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); !ok || int(sys.Uid) != os.Geteuid() {
		return
	}
	release, held := hold(folder)
	defer release()
	if held {
		_ = removeFolder(p.root, name)
	}
}

// installed opens what has the place of a plugin: nil if nothing does, and an
// ErrNotBundle if it is anything but a bundle of that plugin.
func (p *place) installed(kind wire.Kind, name string) (*resident, error) {
	return p.resident(FolderName(kind, name), kind, name)
}

// resident is a bundle that is there already, of which only the manifest needs to
// be right: what is damaged can be replaced and removed.
type resident struct {
	folder   *os.Root
	manifest Manifest
}

func (r *resident) close() { _ = r.folder.Close() }

// resident opens the folder called entry if it is a bundle of that plugin, and one
// that can be removed.
func (p *place) resident(entry string, kind wire.Kind, name string) (*resident, error) {
	for range maxTries {
		st, err := p.root.Lstat(entry)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if !st.IsDir() {
			return nil, fmt.Errorf("%w: %s is a %s and not a folder, so it was not installed as a bundle: remove it in the way it came",
				ErrNotBundle, p.path(entry), kindOf(st.Mode()))
		}
		folder, err := openSubfolder(p.root, entry)
		if err != nil {
			if now, e := p.root.Lstat(entry); e != nil || !os.SameFile(st, now) {
				continue // replaced or removed under our eyes
			}
			return nil, err
		}
		m, err := p.inspect(folder, entry, kind, name)
		if err == nil {
			return &resident{folder, m}, nil
		}
		moved := !p.isNow(entry, folder)
		_ = folder.Close()
		if !moved {
			return nil, err
		}
	}
	return nil, p.busy(entry)
}

// maxTries is how often to look again when others change the same bundle.
const maxTries = 32

func (p *place) busy(entry string) error {
	return fmt.Errorf("%s changes all the time: who else installs there? Try again", p.path(entry))
}

// inspect returns the manifest of a folder that is a bundle of that plugin.
func (p *place) inspect(folder *os.Root, entry string, kind wire.Kind, name string) (Manifest, error) {
	m, _, err := readManifestIn(folder)
	if err == nil && (m.Name != name || m.WireKind() != kind) {
		err = fmt.Errorf("%s is of %s", ManifestFile, m)
	}
	if err != nil {
		return m, fmt.Errorf("%w: %s: %w; it is left as it is: move it away if you do not need it", ErrNotBundle, p.path(entry), err)
	}
	return m, removable(folder)
}

func kindOf(mode fs.FileMode) string {
	switch mode.Type() {
	case 0:
		return "plain file"
	case fs.ModeSymlink:
		return "symbolic link"
	}
	return "special file"
}

// isNow says whether the folder called entry is the one that is open.
func (p *place) isNow(entry string, folder *os.Root) bool {
	there, err := p.root.Lstat(entry)
	if err != nil {
		return false
	}
	open, err := folder.Stat(".")
	return err == nil && os.SameFile(there, open)
}
