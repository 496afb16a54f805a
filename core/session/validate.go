// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"fmt"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// refusal is why a request is not carried out. The connection lives on.
type refusal struct {
	errno nbd.Errno
	why   string
}

// validate is the one place that judges a request, in the order of
// NBD-CHECKLIST.md, 12: read-only, range, flags. It returns nil for one that may
// be carried out. Whoever handles it afterwards relies on it.
func (t *transmission) validate(r nbd.Request) *refusal {
	if t.agreed.commitOnly && r.Command != nbd.CmdCommit {
		return &refusal{nbd.EPERM, "the connection was opened for COMMIT"} // it is let in whoever else is not
	}
	write := r.Command == nbd.CmdWrite || r.Command == nbd.CmdTrim || r.Command == nbd.CmdWriteZeroes
	if write && t.export.ReadOnly() {
		return &refusal{nbd.EPERM, "the export is read-only"}
	}
	allowed, known := t.allowedFlags(r.Command)
	if !known {
		return &refusal{nbd.EINVAL, r.Command.String() + " is unknown or was not agreed on"}
	}
	if bad := t.checkRange(r); bad != nil {
		return bad
	}
	if extra := r.Flags &^ allowed; extra != 0 {
		return &refusal{nbd.EINVAL, fmt.Sprintf("%s does not take the flags %s", r.Command, extra)}
	}
	return nil
}

// allowedFlags returns the flags that a command takes, and whether it is there at
// all. A command or flag that was not advertised is not: the oldstyle handshake
// knows of few. FUA is accepted on every command ("Command flags"), whether it
// means something there or not.
func (t *transmission) allowedFlags(c nbd.Command) (allowed nbd.CommandFlags, known bool) {
	allowed = nbd.CmdFlagFUA
	advertised := t.agreed.flags.Has
	switch c {
	case nbd.CmdRead:
		if advertised(nbd.FlagSendDF) {
			allowed |= nbd.CmdFlagDF
		}
		return allowed, true
	case nbd.CmdWrite, nbd.CmdFlush:
		return allowed, true
	case nbd.CmdTrim:
		return allowed, advertised(nbd.FlagSendTrim)
	case nbd.CmdCache:
		return allowed, advertised(nbd.FlagSendCache)
	case nbd.CmdWriteZeroes:
		allowed |= nbd.CmdFlagNoHole
		if advertised(nbd.FlagSendFastZero) {
			allowed |= nbd.CmdFlagFastZero
		}
		return allowed, advertised(nbd.FlagSendWriteZeroes)
	case nbd.CmdBlockStatus:
		return allowed | nbd.CmdFlagReqOne, t.agreed.allocation
	case nbd.CmdPrepare, nbd.CmdCommit:
		return 0, t.agreed.sender != nil && !t.agreed.oldstyle
	}
	return 0, false
}

// checkRange keeps a request inside the export, without overflow. A flush has no
// range.
func (t *transmission) checkRange(r nbd.Request) *refusal {
	size, length := uint64(t.export.Size()), uint64(r.Length)
	switch {
	case r.Command == nbd.CmdFlush:
		return nil
	case onlySenders(r.Command) && (r.Offset != 0 || r.Length != 0):
		return &refusal{nbd.EINVAL, r.Command.String() + " has offset and length 0"}
	case r.Offset > size || length > size-r.Offset:
		errno := nbd.EINVAL
		if r.Command == nbd.CmdWrite || r.Command == nbd.CmdWriteZeroes {
			errno = nbd.ENOSPC
		}
		return &refusal{errno, fmt.Sprintf("%s of %d bytes at %d is outside the export of %d bytes", r.Command, length, r.Offset, size)}
	case length > MaxRequest && (r.Command == nbd.CmdRead || r.Command == nbd.CmdWrite):
		return &refusal{nbd.EOVERFLOW, fmt.Sprintf("%s of %d bytes is over the maximum of %d", r.Command, length, MaxRequest)}
	case length == 0 && r.Command == nbd.CmdBlockStatus:
		return &refusal{nbd.EINVAL, "BLOCK_STATUS of no bytes"}
	}
	return nil
}
