// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

import "strconv"

// Command is the type of a request ("Request types").
type Command uint16

// The commands. Only CmdWrite carries a payload: a server must not skip length
// bytes after any other, known or unknown.
const (
	CmdRead        Command = 0
	CmdWrite       Command = 1
	CmdDisc        Command = 2 // has no reply
	CmdFlush       Command = 3
	CmdTrim        Command = 4
	CmdCache       Command = 5
	CmdWriteZeroes Command = 6
	CmdBlockStatus Command = 7
	CmdResize      Command = 8 // experimental
)

var commandNames = [...]string{
	CmdRead: "READ", CmdWrite: "WRITE", CmdDisc: "DISC", CmdFlush: "FLUSH", CmdTrim: "TRIM",
	CmdCache: "CACHE", CmdWriteZeroes: "WRITE_ZEROES", CmdBlockStatus: "BLOCK_STATUS",
	CmdResize: "RESIZE",
}

// String returns the protocol's name without its prefix.
func (c Command) String() string {
	if int(c) < len(commandNames) {
		return commandNames[c]
	}
	switch c {
	case CmdPrepare:
		return "PREPARE"
	case CmdCommit:
		return "COMMIT"
	}
	return "command " + strconv.Itoa(int(c))
}
