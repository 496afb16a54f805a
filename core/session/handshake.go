// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// handshake is the state of the fixed newstyle negotiation.
type handshake struct {
	out    io.Writer
	in     *bufio.Reader
	config Config

	fixed    bool // the client may use options other than EXPORT_NAME
	noZeroes bool

	structured bool
	allocation bool // base:allocation was selected for exportName
}

// negotiate talks to the client until both enter the transmission phase. It
// returns nil and no error when the client left by the rules.
func negotiate(conn net.Conn, in *bufio.Reader, config Config) (*agreement, error) {
	if err := conn.SetDeadline(time.Now().Add(config.HandshakeTimeout)); err != nil {
		return nil, err
	}
	h := &handshake{out: conn, in: in, config: config}
	if err := h.greet(); err != nil {
		return nil, err
	}
	for range nbd.MaxOptions {
		done, err := h.option()
		if errors.Is(err, errAborted) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if done {
			return h.agreement(), conn.SetDeadline(time.Time{})
		}
	}
	return nil, fmt.Errorf("more than %d options", nbd.MaxOptions)
}

// errAborted: the client sent ABORT and got its answer.
var errAborted = errors.New("aborted")

// greet exchanges the greeting and the client's flags.
func (h *handshake) greet() error {
	const offered = nbd.FlagFixedNewstyle | nbd.FlagNoZeroes
	if err := h.send(nbd.AppendGreeting(nil, offered)); err != nil {
		return err
	}
	var b [nbd.ClientFlagsSize]byte
	if _, err := io.ReadFull(h.in, b[:]); err != nil {
		return err
	}
	flags, err := nbd.DecodeClientFlags(b[:], offered)
	h.fixed = flags&nbd.FlagClientFixedNewstyle != 0
	h.noZeroes = flags&nbd.FlagClientNoZeroes != 0
	return err
}

// option reads one option and answers it. done means that the transmission phase
// begins.
func (h *handshake) option() (done bool, err error) {
	header, data, err := nbd.ReadOption(h.in)
	opt := header.Option
	switch {
	case errors.Is(err, nbd.ErrTooBig):
		if opt == nbd.OptExportName {
			return false, err // has no way to answer with an error
		}
		return false, h.refuse(opt, nbd.RepErrTooBig, fmt.Sprintf("more than %d bytes of data", nbd.MaxOptionLength))
	case err != nil:
		return false, err
	case !h.fixed && opt != nbd.OptExportName:
		return false, fmt.Errorf("option %s from a client that is not fixed newstyle", opt)
	}
	switch opt {
	case nbd.OptExportName:
		return h.exportName(data)
	case nbd.OptAbort:
		_ = h.send(nbd.AppendOptionReply(nil, opt, nbd.RepAck, nil)) // it may be gone already
		return false, errAborted
	case nbd.OptList:
		return false, h.list(data)
	case nbd.OptInfo, nbd.OptGo:
		return h.info(opt, data)
	case nbd.OptStructuredReply:
		return false, h.structuredReply(data)
	case nbd.OptListMetaContext, nbd.OptSetMetaContext:
		return false, h.metaContext(opt, data)
	}
	return false, h.refuse(opt, nbd.RepErrUnsup, "this server does not know the option")
}

// exportName ends the handshake without an answer that could carry an error.
func (h *handshake) exportName(data []byte) (bool, error) {
	name, err := nbd.ParseExportName(data)
	if err != nil {
		return false, err
	}
	if name != exportName {
		return false, fmt.Errorf("EXPORT_NAME asks for the export %.80q; there is only the default one", name)
	}
	if h.stopping() {
		return false, errors.New("EXPORT_NAME while the server shuts down")
	}
	flags := transmissionFlags(h.config.Export, h.structured)
	return true, h.send(nbd.AppendExportNameReply(nil, uint64(h.config.Export.Size()), flags, h.noZeroes))
}

func (h *handshake) list(data []byte) error {
	if len(data) != 0 {
		return h.refuse(nbd.OptList, nbd.RepErrInvalid, "LIST takes no data")
	}
	if h.stopping() {
		return h.refuse(nbd.OptList, nbd.RepErrShutdown, "the server shuts down")
	}
	server := nbd.AppendRepServer(nil, exportName, "")
	out := nbd.AppendOptionReply(nil, nbd.OptList, nbd.RepServer, server)
	return h.send(nbd.AppendOptionReply(out, nbd.OptList, nbd.RepAck, nil))
}

// info answers INFO, and GO, which ends the handshake.
func (h *handshake) info(opt nbd.Option, data []byte) (bool, error) {
	name, wanted, err := nbd.ParseInfoRequest(data)
	switch {
	case err != nil:
		return false, h.refuse(opt, nbd.RepErrInvalid, err.Error())
	case name != exportName:
		return false, h.refuse(opt, nbd.RepErrUnknown, "there is only the default export, whose name is empty")
	case h.stopping():
		return false, h.refuse(opt, nbd.RepErrShutdown, "the server shuts down")
	}
	e := h.config.Export
	out := nbd.AppendOptionReply(nil, opt, nbd.RepInfo,
		nbd.AppendInfoExport(nil, uint64(e.Size()), transmissionFlags(e, h.structured)))
	for _, info := range wanted {
		switch info { // others may be ignored
		case nbd.InfoName:
			out = nbd.AppendOptionReply(out, opt, nbd.RepInfo, nbd.AppendInfoName(nil, exportName))
		case nbd.InfoBlockSize:
			out = nbd.AppendOptionReply(out, opt, nbd.RepInfo, nbd.AppendInfoBlockSize(nil, blockSizes(e)))
		}
	}
	return opt == nbd.OptGo, h.send(nbd.AppendOptionReply(out, opt, nbd.RepAck, nil))
}

func (h *handshake) structuredReply(data []byte) error {
	if len(data) != 0 {
		return h.refuse(nbd.OptStructuredReply, nbd.RepErrInvalid, "STRUCTURED_REPLY takes no data")
	}
	h.structured = true
	return h.send(nbd.AppendOptionReply(nil, nbd.OptStructuredReply, nbd.RepAck, nil))
}

// metaContext answers LIST_META_CONTEXT and SET_META_CONTEXT. The latter replaces
// what was selected before, also when it fails.
func (h *handshake) metaContext(opt nbd.Option, data []byte) error {
	set := opt == nbd.OptSetMetaContext
	if set {
		h.allocation = false
	}
	if !h.structured {
		return h.refuse(opt, nbd.RepErrInvalid, "ask for structured replies first")
	}
	name, queries, err := nbd.ParseMetaContextRequest(data)
	switch {
	case err != nil:
		return h.refuse(opt, nbd.RepErrInvalid, err.Error())
	case name != exportName:
		return h.refuse(opt, nbd.RepErrUnknown, "there is only the default export, whose name is empty")
	}
	var out []byte
	if selectsAllocation(queries, set) {
		id := uint32(0) // reserved in a list
		if set {
			id, h.allocation = allocationID, true
		}
		out = nbd.AppendOptionReply(out, opt, nbd.RepMetaContext, nbd.AppendMetaContext(nil, id, nbd.BaseAllocation))
	}
	return h.send(nbd.AppendOptionReply(out, opt, nbd.RepAck, nil))
}

// selectsAllocation says whether the queries find base:allocation. Without any, a
// list means everything and a set means nothing. "base:" alone is a wildcard in a
// list only. Namespaces and leaves that are not known find nothing.
func selectsAllocation(queries []string, set bool) bool {
	if len(queries) == 0 {
		return !set
	}
	for _, q := range queries {
		if q == nbd.BaseAllocation || !set && q == nbd.BaseNamespace {
			return true
		}
	}
	return false
}

func (h *handshake) agreement() *agreement {
	return &agreement{
		flags:      transmissionFlags(h.config.Export, h.structured),
		structured: h.structured,
		allocation: h.allocation,
	}
}

func (h *handshake) stopping() bool {
	select {
	case <-h.config.Stopping:
		return true
	default:
		return false
	}
}

func (h *handshake) refuse(opt nbd.Option, rep nbd.Reply, why string) error {
	h.config.Log.Info("option refused", "option", opt, "reply", rep, "why", why)
	return h.send(nbd.AppendOptionError(nil, opt, rep, why))
}

func (h *handshake) send(b []byte) error {
	_, err := h.out.Write(b)
	return err
}
