// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// handshake is the state of the negotiation.
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
	limit := time.Now().Add(config.HandshakeTimeout)
	if err := conn.SetDeadline(limit); err != nil {
		return nil, err
	}
	done := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() { hurry(conn, limit, config.Stopping, done) })
	h := &handshake{out: conn, in: in, config: config}
	agreed, err := h.run()
	close(done)
	watcher.Wait()
	switch {
	case h.stopping() && errors.Is(err, os.ErrDeadlineExceeded):
		return nil, nil
	case agreed == nil || err != nil:
		return nil, err
	}
	return agreed, conn.SetDeadline(time.Time{})
}

// hurry leaves a client that is in its handshake when the server stops only
// farewellTime, in which it can learn of that.
func hurry(conn net.Conn, limit time.Time, stopping, done <-chan struct{}) {
	select {
	case <-done:
		return
	case <-stopping:
	}
	if soon := time.Now().Add(farewellTime); soon.Before(limit) {
		_ = conn.SetDeadline(soon)
	}
}

// run is negotiate without the clock.
func (h *handshake) run() (*agreement, error) {
	if h.config.Handshake == Oldstyle {
		return oldstyle(h.out, h.config)
	}
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
			return h.agreement(), nil
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
	opt, tooBig := header.Option, errors.Is(err, nbd.ErrTooBig)
	switch {
	case err != nil && !tooBig:
		return false, err
	case opt == nbd.OptExportName && tooBig:
		return false, err // has no way to answer with an error
	case opt == nbd.OptExportName:
		return h.exportName(data)
	case !h.fixed:
		return false, fmt.Errorf("option %s from a client that is not fixed newstyle", opt)
	case opt == nbd.OptAbort: // its data does not matter
		_ = h.send(nbd.AppendOptionReply(nil, opt, nbd.RepAck, nil)) // it may be gone already
		return false, errAborted
	}
	if opt == nbd.OptSetMetaContext {
		h.allocation = false // replaced, whatever comes of it
	}
	switch {
	case h.stopping():
		return false, h.refuse(opt, nbd.RepErrShutdown, "the server shuts down")
	case dataOf(opt) == noData && header.Length > 0:
		return false, h.refuse(opt, nbd.RepErrInvalid, opt.String()+" takes no data")
	case dataOf(opt) == someData && tooBig:
		return false, h.refuse(opt, nbd.RepErrTooBig, fmt.Sprintf("more than %d bytes of data", nbd.MaxOptionLength))
	}
	switch opt {
	case nbd.OptList:
		return false, h.list()
	case nbd.OptInfo, nbd.OptGo:
		return h.info(opt, data)
	case nbd.OptStructuredReply:
		h.structured = true
		return false, h.send(nbd.AppendOptionReply(nil, opt, nbd.RepAck, nil))
	case nbd.OptListMetaContext, nbd.OptSetMetaContext:
		return false, h.metaContext(opt, data)
	}
	return false, h.refuse(opt, nbd.RepErrUnsup, "this server does not have the option")
}

// optionData says what an option comes with.
type optionData int

const (
	anyData optionData = iota // nothing is known of the option
	noData
	someData
)

// dataOf knows also options that are not offered: what breaks the protocol is
// ERR_INVALID, whether the option is there or not.
func dataOf(opt nbd.Option) optionData {
	switch opt {
	case nbd.OptList, nbd.OptStartTLS, nbd.OptStructuredReply, nbd.OptExtendedHeaders:
		return noData
	case nbd.OptInfo, nbd.OptGo, nbd.OptListMetaContext, nbd.OptSetMetaContext:
		return someData
	}
	return anyData
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

func (h *handshake) list() error {
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
	}
	e := h.config.Export
	out := nbd.AppendOptionReply(nil, opt, nbd.RepInfo,
		nbd.AppendInfoExport(nil, uint64(e.Size()), transmissionFlags(e, h.structured)))
	// Others may be ignored, and nothing is said twice.
	if slices.Contains(wanted, nbd.InfoName) {
		out = nbd.AppendOptionReply(out, opt, nbd.RepInfo, nbd.AppendInfoName(nil, exportName))
	}
	if slices.Contains(wanted, nbd.InfoBlockSize) {
		out = nbd.AppendOptionReply(out, opt, nbd.RepInfo, nbd.AppendInfoBlockSize(nil, blockSizes(e)))
	}
	return opt == nbd.OptGo, h.send(nbd.AppendOptionReply(out, opt, nbd.RepAck, nil))
}

// metaContext answers LIST_META_CONTEXT and SET_META_CONTEXT.
func (h *handshake) metaContext(opt nbd.Option, data []byte) error {
	set := opt == nbd.OptSetMetaContext
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
