// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"errors"
	"fmt"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// isEmpty reports whether a request is for a range of no bytes.
func isEmpty(req nbd.Request) bool {
	return req.Length == 0 &&
		(req.Command == nbd.CmdWrite || req.Command == nbd.CmdWriteZeroes || req.Command == nbd.CmdTrim)
}

// check refuses what may not be sent through a pipeline, with a *RequestError.
func (p *Pipeline) check(c *Call) error {
	if err := p.client.checkCall(c); err != nil {
		return &RequestError{Command: c.Request.Command, Offset: c.Request.Offset, Length: c.Request.Length, Err: err}
	}
	return nil
}

func (c *Client) checkCall(call *Call) error {
	req := call.Request
	want := 0
	if req.Command == nbd.CmdWrite {
		want = int(req.Length)
	}
	if len(call.Payload) != want {
		return fmt.Errorf("%w: the payload has %d bytes instead of %d", errBadCall, len(call.Payload), want)
	}
	if err := c.offers(req); err != nil {
		return err
	}
	switch req.Command {
	case nbd.CmdWrite, nbd.CmdWriteZeroes, nbd.CmdTrim:
		return c.check(&req)
	}
	if req.Offset != 0 || req.Length != 0 {
		return fmt.Errorf("%w: its offset and length have to be 0", errBadCall)
	}
	return nil
}

// errBadCall: no server would know what to do with it.
var errBadCall = errors.New("malformed request")

// offers compares a request's command and flags with what the server offers.
func (c *Client) offers(req nbd.Request) error {
	var needs nbd.TransmissionFlags
	var flags nbd.CommandFlags
	switch req.Command {
	case nbd.CmdWrite:
		flags = nbd.CmdFlagFUA
	case nbd.CmdWriteZeroes:
		needs, flags = nbd.FlagSendWriteZeroes, nbd.CmdFlagFUA|nbd.CmdFlagNoHole|nbd.CmdFlagFastZero
	case nbd.CmdTrim:
		needs, flags = nbd.FlagSendTrim, nbd.CmdFlagFUA
	case nbd.CmdFlush:
		needs, flags = nbd.FlagSendFlush, 0
	case nbd.CmdPrepare, nbd.CmdCommit:
		if c.answer == nil {
			return fmt.Errorf("%w: it has not accepted a migration", ErrUnsupported)
		}
	case nbd.CmdRead:
		if c.isOldstyle && nbd.IsEntrust(req) {
			return nil
		}
		return fmt.Errorf("%w: a pipeline does not read", errBadCall)
	default:
		return fmt.Errorf("%w: a pipeline does not send it", errBadCall)
	}
	switch {
	case !c.flags.Has(needs):
		return fmt.Errorf("%w: it does not offer %v", ErrUnsupported, req.Command)
	case req.Flags&^flags != 0:
		return fmt.Errorf("%w: %v does not go with the flags %v", errBadCall, req.Command, req.Flags)
	case req.Flags.Has(nbd.CmdFlagFUA) && !c.flags.Has(nbd.FlagSendFUA):
		return fmt.Errorf("%w: it does not offer FUA", ErrUnsupported)
	case req.Flags.Has(nbd.CmdFlagFastZero) && !c.flags.Has(nbd.FlagSendFastZero):
		return fmt.Errorf("%w: it does not offer FAST_ZERO", ErrUnsupported)
	}
	return nil
}
