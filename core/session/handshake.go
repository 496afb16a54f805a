// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/nbd"
)

// handshake is the state of the negotiation.
type handshake struct {
	ctx    context.Context // ends when the connection is cut, or the time is up
	out    io.Writer
	in     *bufio.Reader
	config Config
	link   *link

	fixed    bool // the client may use options other than EXPORT_NAME
	noZeroes bool

	structured bool
	allocation bool // base:allocation was selected for exportName
	commitOnly bool // said the hello
}

// negotiate talks to the client until both enter the transmission phase. It
// returns nil and no error when the client left by the rules.
func negotiate(ctx context.Context, conn net.Conn, in *bufio.Reader, config Config, l *link) (*agreement, error) {
	limit := time.Now().Add(config.HandshakeTimeout)
	ctx, cancel := context.WithDeadline(ctx, limit)
	defer cancel()
	if err := conn.SetDeadline(limit); err != nil {
		return nil, err
	}
	done := make(chan struct{})
	var watcher sync.WaitGroup
	h := &handshake{ctx: ctx, out: conn, in: in, config: config, link: l}
	watcher.Go(func() {
		if h.hurry(limit, conn, done) {
			cancel()
			_ = conn.SetDeadline(time.Unix(1, 0))
		}
	})
	agreed, err := h.run()
	close(done)
	watcher.Wait()
	switch {
	case isClosed(config.Moved) && errors.Is(err, os.ErrDeadlineExceeded):
		return nil, export.ErrMovedAway
	case h.stopping() && errors.Is(err, os.ErrDeadlineExceeded):
		return nil, nil
	case agreed == nil || err != nil:
		return nil, err
	}
	return agreed, conn.SetDeadline(time.Time{})
}

// hurry waits for the handshake's end, or returns true when it has to end at once:
// the disk is gone, or the server stops and farewellTime is over, in which a client
// can learn of that.
func (h *handshake) hurry(limit time.Time, conn net.Conn, done <-chan struct{}) bool {
	select {
	case <-done:
		return false
	case <-h.config.Moved:
		return true
	case <-h.config.Stopping:
	}
	soon := time.Now().Add(farewellTime)
	if soon.Before(limit) {
		_ = conn.SetDeadline(soon)
	}
	farewell := time.NewTimer(farewellTime)
	defer farewell.Stop()
	select {
	case <-done:
		return false
	case <-h.config.Moved:
	case <-farewell.C: // it may be a Hello that waits, not the client
	}
	return true
}

// run is negotiate without the clock.
func (h *handshake) run() (*agreement, error) {
	if h.config.Handshake == Oldstyle {
		return h.oldstyle()
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
	if opt == nbd.OptMigrate && h.config.Migration != nil {
		return false, h.migrate(data)
	}
	if opt == nbd.OptList || opt == nbd.OptInfo || opt == nbd.OptGo {
		if why := h.guest(); why != "" {
			return false, h.refuse(opt, nbd.RepErrPolicy, why)
		}
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
	case nbd.OptInfo, nbd.OptGo, nbd.OptListMetaContext, nbd.OptSetMetaContext, nbd.OptMigrate:
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
	if why := h.guest(); why != "" {
		return false, fmt.Errorf("EXPORT_NAME refused: %s", why)
	}
	if why := h.crowded(); why != "" {
		return false, fmt.Errorf("EXPORT_NAME refused: %s", why)
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
	if opt == nbd.OptGo {
		if why := h.crowded(); why != "" {
			return false, h.refuse(opt, nbd.RepErrPolicy, why)
		}
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
		sender:     h.link.sender,
		commitOnly: h.commitOnly,
	}
}

// guest says why the client is not let in, or nothing.
func (h *handshake) guest() string {
	if h.config.Migration == nil || h.link.sender != nil {
		return ""
	}
	return h.config.Migration.Guest()
}

// crowded says why there is no room for the client, or nothing. A migration has room.
func (h *handshake) crowded() string {
	if h.config.Admission == nil || h.link.sender != nil {
		return ""
	}
	return h.config.Admission.Client()
}

// adopt makes the connection a migration's.
func (h *handshake) adopt(s Sender, purpose nbd.MigrationPurpose) {
	h.link.adopt(s)
	if h.config.Admission != nil {
		h.config.Admission.Migration(purpose)
	}
}

// migrate answers the option with which another server migrates its disk to this
// one. See docs/migration-protocol.md.
func (h *handshake) migrate(data []byte) error {
	hello, err := nbd.ParseMigrationHello(data)
	switch {
	case err != nil:
		return h.refuse(nbd.OptMigrate, nbd.RepErrInvalid, err.Error())
	case h.link.sender != nil:
		return h.refuse(nbd.OptMigrate, nbd.RepErrInvalid, "the option comes once in a connection")
	}
	sender, answer, err := h.config.Migration.Hello(h.ctx, hello, h.link)
	var no *Refusal
	switch {
	case errors.As(err, &no):
		return h.refuse(nbd.OptMigrate, no.Reply, no.Text)
	case err != nil:
		return h.refuse(nbd.OptMigrate, nbd.RepErrPolicy, err.Error())
	}
	h.adopt(sender, hello.Purpose)
	h.commitOnly = hello.Purpose == nbd.MigrationCommit
	out := nbd.AppendOptionReply(nil, nbd.OptMigrate, nbd.RepMigrate, nbd.AppendMigrationAnswer(nil, answer))
	return h.send(nbd.AppendOptionReply(out, nbd.OptMigrate, nbd.RepAck, nil))
}

func (h *handshake) stopping() bool { return isClosed(h.config.Stopping) }

// isClosed says whether c is closed. A nil channel never is.
func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
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
