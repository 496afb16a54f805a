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
	loud  bool // an operator has to hear of it, once in a connection
}

// validate is the one place that judges a request, in the order of
// NBD-CHECKLIST.md, 12: read-only, range, flags. It returns nil for one that may
// be carried out. Whoever handles it afterwards relies on it.
func (t *transmission) validate(r nbd.Request) *refusal {
	if t.agreed.commitOnly && r.Command != nbd.CmdCommit {
		return &refusal{errno: nbd.EPERM, why: "the connection was opened for COMMIT"} // it is let in whoever else is not
	}
	if r.Command == nbd.CmdRead && r.Length > 0 && t.agreed.oldstyle && t.agreed.sender != nil {
		// Nothing tells an oldstyle sender from a client but that senders do not
		// read. A client must not get what is no disk yet.
		return &refusal{errno: nbd.EPERM, loud: true, why: "this server waits for a disk, so it has taken the oldstyle connection " +
			"for the sender's, which has nothing to read; the disk is served when it has arrived"}
	}
	write := r.Command == nbd.CmdWrite || r.Command == nbd.CmdTrim || r.Command == nbd.CmdWriteZeroes
	if write && t.export.ReadOnly() {
		return &refusal{errno: nbd.EPERM, why: "the export is read-only"}
	}
	allowed, known := t.allowedFlags(r.Command)
	if !known {
		return &refusal{errno: nbd.EINVAL, why: r.Command.String() + " is unknown or was not agreed on"}
	}
	if bad := t.checkRange(r); bad != nil {
		return bad
	}
	if extra := r.Flags &^ allowed; extra != 0 {
		return &refusal{errno: nbd.EINVAL, why: fmt.Sprintf("%s does not take the flags %s", r.Command, extra)}
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
		return &refusal{errno: nbd.EINVAL, why: r.Command.String() + " has offset and length 0"}
	case r.Offset > size || length > size-r.Offset:
		errno := nbd.EINVAL
		if r.Command == nbd.CmdWrite || r.Command == nbd.CmdWriteZeroes {
			errno = nbd.ENOSPC
		}
		return &refusal{errno: errno, why: fmt.Sprintf("%s of %d bytes at %d is outside the export of %d bytes", r.Command, length, r.Offset, size)}
	case length > MaxRequest && (r.Command == nbd.CmdRead || r.Command == nbd.CmdWrite):
		return &refusal{errno: nbd.EOVERFLOW, why: fmt.Sprintf("%s of %d bytes is over the maximum of %d", r.Command, length, MaxRequest)}
	case length == 0 && r.Command == nbd.CmdBlockStatus:
		return &refusal{errno: nbd.EINVAL, why: "BLOCK_STATUS of no bytes"}
	}
	return nil
}
