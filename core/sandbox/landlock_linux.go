// SPDX-License-Identifier: GPL-3.0-or-later

package sandbox

import (
	"os"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// rights are Landlock's words for each kind of access. They hold for a path and for
// what is below it. None of them says that a file may be moved to another folder.
var rights = map[Access]landlock.AccessFSSet{
	Read:     ll.AccessFSReadFile | ll.AccessFSReadDir,
	Disk:     ll.AccessFSReadFile | ll.AccessFSWriteFile | ll.AccessFSIoctlDev,
	DiskRead: ll.AccessFSReadFile | ll.AccessFSIoctlDev,
	Records:  ll.AccessFSReadFile | ll.AccessFSWriteFile | ll.AccessFSTruncate | ll.AccessFSReadDir | ll.AccessFSMakeReg | ll.AccessFSRemoveFile,
	Sockets:  ll.AccessFSReadDir | ll.AccessFSMakeSock | ll.AccessFSRemoveFile,
	Private:  ll.AccessFSReadFile | ll.AccessFSWriteFile | ll.AccessFSReadDir | ll.AccessFSMakeReg | ll.AccessFSMakeSock | ll.AccessFSRemoveFile,
	Remove:   ll.AccessFSRemoveFile,
	Folders:  ll.AccessFSReadDir | ll.AccessFSMakeDir | ll.AccessFSRemoveDir | ll.AccessFSRemoveFile,
	Execute:  ll.AccessFSReadFile | ll.AccessFSReadDir | ll.AccessFSExecute,
}

// known is what Landlock can hold back, as far as this package knows.
var known = landlock.V6

// landlockABI returns the kernel's, or 0 if it has none or has it switched off.
func landlockABI() int {
	abi, err := ll.LandlockGetABIVersion()
	if err != nil {
		return 0
	}
	return abi
}

// ofFiles are the rights that a rule for a single file may name.
const ofFiles = ll.AccessFSReadFile | ll.AccessFSWriteFile | ll.AccessFSTruncate | ll.AccessFSIoctlDev | ll.AccessFSExecute

func restrictPaths(p Policy) error {
	config := landlock.Config{HandledAccessFS: known.HandledAccessFS}
	if !p.Internet {
		config.HandledAccessNet = known.HandledAccessNet
	}
	if !p.Signals {
		config.Scoped |= ll.ScopeSignal
	}
	if !p.Abstract {
		config.Scoped |= ll.ScopeAbstractUnixSocket
	}
	var rules []landlock.Rule
	for _, path := range p.Paths {
		file, err := os.Stat(path.Path)
		if err != nil {
			continue // whoever needs it will say so
		}
		may := rights[path.Access]
		if !file.IsDir() {
			may &= ofFiles
		}
		rules = append(rules, landlock.PathAccess(may, path.Path).IgnoreIfMissing())
	}
	return config.BestEffort().Restrict(rules...)
}
