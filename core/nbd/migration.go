// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

import (
	"encoding/binary"
	"math"
	"strconv"
	"unicode"
	"unicode/utf8"
)

// The messages with which one flexnbd gives a disk to another. None of them is
// part of the NBD protocol; docs/migration-protocol.md describes every byte and
// who may send what when. Servers that do not know the option answer it with
// RepErrUnsup, so a client may try it on any server with the fixed newstyle
// handshake.

// OptMigrate says that the client migrates a disk to the server, or asks for the
// end of a migration. Its data is a [MigrationHello]. A server that accepts it
// answers with one RepMigrate, whose data is a [MigrationAnswer], and then with a
// RepAck without data.
const OptMigrate Option = 0x464c4558 // "FLEX"

// RepMigrate carries the answer to OptMigrate.
const RepMigrate Reply = 0x464c4558

// The commands that OptMigrate allows. Both have no flags, the offset 0, the
// length 0 and no payload, and are answered with a simple reply, after OptMigrate
// also where structured replies were negotiated.
const (
	CmdPrepare Command = 0x4650 // "FP": make the disk durable and be ready to take it over
	CmdCommit  Command = 0x4643 // "FC": take the disk over
)

// Sizes of the option's data, in bytes. An answer has its address behind it.
const (
	MigrationHelloSize     = 64
	MigrationAnswerSize    = 32 // without the address
	MaxMigrationAddress    = 255
	MigrationVersion       = 1
	migrationVersionLength = 2
)

// MigrationPurpose is what a connection is for.
type MigrationPurpose uint16

// The purposes.
const (
	MigrationSend   MigrationPurpose = 1 // to send the disk, or a share of it
	MigrationCommit MigrationPurpose = 2 // to send CmdCommit and nothing else
)

// String returns the purpose's name.
func (p MigrationPurpose) String() string {
	switch p {
	case MigrationSend:
		return "SEND"
	case MigrationCommit:
		return "COMMIT"
	}
	return "purpose " + strconv.Itoa(int(p))
}

// MigrationFlags say what the server knows of its disk.
type MigrationFlags uint16

// The flags of an answer.
const (
	MigrationZeroes   MigrationFlags = 1 << 0 // the whole disk reads as zeroes
	MigrationPrepared MigrationFlags = 1 << 1 // Prepared holds the id that the disk is prepared for
	MigrationOwner    MigrationFlags = 1 << 2 // this server owns the disk and serves it
)

var migrationFlagNames = []string{"ZEROES", "PREPARED", "OWNER"}

const knownMigrationFlags = MigrationZeroes | MigrationPrepared | MigrationOwner

// Has reports whether all bits of want are set.
func (f MigrationFlags) Has(want MigrationFlags) bool { return f&want == want }

// String lists the flags by their names, joined by "|".
func (f MigrationFlags) String() string { return flagString(uint16(f), migrationFlagNames) }

// MigrationHello is the data of OptMigrate.
type MigrationHello struct {
	Version uint16 // MigrationVersion
	Purpose MigrationPurpose
	Size    uint64 // of the disk, in bytes; at most 2^63 - 1

	Source   [16]byte // random, one for each sending process; never zero
	ID       [16]byte // random, one for each attempt; never zero
	Replaces [16]byte // the earlier attempt that this one may replace; zero: none
}

// Check returns an error that wraps ErrMalformed when the hello may not travel.
func (h MigrationHello) Check() error {
	var zero [16]byte
	switch {
	case h.Version != MigrationVersion:
		return migrationVersion(h.Version)
	case h.Purpose != MigrationSend && h.Purpose != MigrationCommit:
		return malformed("%v is no purpose of a migration", h.Purpose)
	case h.Size > math.MaxInt64:
		return malformed("a disk cannot have %d bytes", h.Size)
	case h.Source == zero:
		return malformed("the migration's source is zero")
	case h.ID == zero:
		return malformed("the migration's id is zero")
	case h.Purpose == MigrationCommit && h.Replaces != zero:
		return malformed("a connection for COMMIT replaces no earlier migration")
	}
	return nil
}

// AppendMigrationHello appends the data of OptMigrate to dst. The hello has to
// pass [MigrationHello.Check].
func AppendMigrationHello(dst []byte, h MigrationHello) []byte {
	dst = binary.BigEndian.AppendUint16(dst, h.Version)
	dst = binary.BigEndian.AppendUint16(dst, uint16(h.Purpose))
	dst = binary.BigEndian.AppendUint32(dst, 0) // reserved
	dst = binary.BigEndian.AppendUint64(dst, h.Size)
	dst = append(dst, h.Source[:]...)
	dst = append(dst, h.ID[:]...)
	return append(dst, h.Replaces[:]...)
}

// ParseMigrationHello takes the data of OptMigrate apart. The error wraps
// ErrMalformed and is answered with RepErrInvalid.
func ParseMigrationHello(data []byte) (MigrationHello, error) {
	if err := migrationSize("a migration's option", data, len(data) == MigrationHelloSize, MigrationHelloSize); err != nil {
		return MigrationHello{}, err
	}
	if reserved := binary.BigEndian.Uint32(data[4:]); reserved != 0 {
		return MigrationHello{}, malformed("the reserved bytes of a migration's option are 0x%x", reserved)
	}
	h := MigrationHello{
		Version:  binary.BigEndian.Uint16(data),
		Purpose:  MigrationPurpose(binary.BigEndian.Uint16(data[2:])),
		Size:     binary.BigEndian.Uint64(data[8:]),
		Source:   [16]byte(data[16:32]),
		ID:       [16]byte(data[32:48]),
		Replaces: [16]byte(data[48:64]),
	}
	if err := h.Check(); err != nil {
		return MigrationHello{}, err
	}
	return h, nil
}

// MigrationAnswer is the data of RepMigrate.
type MigrationAnswer struct {
	Version uint16 // MigrationVersion
	Flags   MigrationFlags
	Size    uint64 // of the server's disk, in bytes; for MigrationSend the same as the hello's

	Prepared [16]byte // the attempt that the disk is prepared for; zero without MigrationPrepared

	// Where the disk will be served once it has been taken over, in the form that
	// the server's transport gives addresses; printable, at most
	// MaxMigrationAddress bytes. Empty, or an IP address that means any: the host
	// that this connection went to; with the port 0, also its port.
	Address string
	Port    uint16
}

// Check returns an error that wraps ErrMalformed when the answer may not travel.
func (a MigrationAnswer) Check() error {
	var zero [16]byte
	switch {
	case a.Version != MigrationVersion:
		return migrationVersion(a.Version)
	case a.Flags&^knownMigrationFlags != 0:
		return malformed("the flags of a migration's answer, %v, have unknown bits", a.Flags)
	case a.Size > math.MaxInt64:
		return malformed("a disk cannot have %d bytes", a.Size)
	case a.Flags.Has(MigrationPrepared) != (a.Prepared != zero):
		return malformed("a migration's answer has the flags %v and the prepared id %x", a.Flags, a.Prepared)
	case a.Flags.Has(MigrationPrepared | MigrationOwner):
		return malformed("a migration's answer says that the disk is prepared and owned")
	}
	return checkMigrationAddress(a.Address)
}

func checkMigrationAddress(addr string) error {
	if len(addr) > MaxMigrationAddress {
		return malformed("the address in a migration's answer has %d bytes, %d are allowed", len(addr), MaxMigrationAddress)
	}
	if !utf8.ValidString(addr) {
		return malformed("the address in a migration's answer is not valid UTF-8")
	}
	for _, r := range addr {
		if !unicode.IsPrint(r) {
			return malformed("the address in a migration's answer contains %U, which cannot be printed", r)
		}
	}
	return nil
}

// AppendMigrationAnswer appends the data of RepMigrate to dst. The answer has to
// pass [MigrationAnswer.Check].
func AppendMigrationAnswer(dst []byte, a MigrationAnswer) []byte {
	dst = binary.BigEndian.AppendUint16(dst, a.Version)
	dst = binary.BigEndian.AppendUint16(dst, uint16(a.Flags))
	dst = binary.BigEndian.AppendUint16(dst, a.Port)
	dst = append(dst, byte(len(a.Address)), 0) // the second is reserved
	dst = binary.BigEndian.AppendUint64(dst, a.Size)
	dst = append(dst, a.Prepared[:]...)
	return append(dst, a.Address...)
}

// ParseMigrationAnswer takes the data of RepMigrate apart. The error wraps
// ErrMalformed.
func ParseMigrationAnswer(data []byte) (MigrationAnswer, error) {
	fits := len(data) >= MigrationAnswerSize && len(data) == MigrationAnswerSize+int(data[6])
	want := MigrationAnswerSize
	if len(data) >= MigrationAnswerSize {
		want += int(data[6])
	}
	if err := migrationSize("a migration's answer", data, fits, want); err != nil {
		return MigrationAnswer{}, err
	}
	if data[7] != 0 {
		return MigrationAnswer{}, malformed("the reserved byte of a migration's answer is 0x%x", data[7])
	}
	a := MigrationAnswer{
		Version:  binary.BigEndian.Uint16(data),
		Flags:    MigrationFlags(binary.BigEndian.Uint16(data[2:])),
		Port:     binary.BigEndian.Uint16(data[4:]),
		Size:     binary.BigEndian.Uint64(data[8:]),
		Prepared: [16]byte(data[16:32]),
		Address:  string(data[32:]),
	}
	if err := a.Check(); err != nil {
		return MigrationAnswer{}, err
	}
	return a, nil
}

// migrationSize checks the length of data. The version decides about everything
// behind it, so it is looked at first.
func migrationSize(what string, data []byte, fits bool, want int) error {
	if len(data) >= migrationVersionLength {
		if v := binary.BigEndian.Uint16(data); v != MigrationVersion {
			return migrationVersion(v)
		}
	}
	if !fits {
		return malformed("%s is %d bytes long, it has to be %d", what, len(data), want)
	}
	return nil
}

func migrationVersion(v uint16) error {
	return malformed("version %d of the migration protocol, only version %d is spoken here; use the same flexnbd on both sides", v, MigrationVersion)
}
