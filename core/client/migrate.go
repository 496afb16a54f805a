// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"github.com/flexnbd/flexnbd/core/nbd"
)

// Migration returns what the server has answered to [Options.Migration]. ok is
// false when nothing was asked, or the server does not know the option.
func (c *Client) Migration() (answer nbd.MigrationAnswer, ok bool) {
	if c.answer == nil {
		return nbd.MigrationAnswer{}, false
	}
	return *c.answer, true
}

// migrate sends the option for migrations, if there is one to send, and takes in
// the answer. Nothing else is said before that: the server may use the time to end
// what older connections of this source have left.
func (c *Client) migrate() error {
	if c.hello == nil {
		return nil
	}
	data := nbd.AppendMigrationHello(nil, *c.hello)
	if err := c.send("the option MIGRATE", nbd.AppendOption(nil, nbd.OptMigrate, data)); err != nil {
		return err
	}
	h, data, err := c.migrateReply()
	switch {
	case err != nil:
		return err
	case h.Reply == nbd.RepErrUnsup:
		return nil
	case h.Reply.IsError():
		return &RefusedError{Option: nbd.OptMigrate, Reply: h.Reply, Message: string(data[:min(len(data), nbd.MaxString)])}
	case h.Reply != nbd.RepMigrate:
		return breach("a %v reply is no answer to %v", h.Reply, nbd.OptMigrate)
	}
	answer, err := nbd.ParseMigrationAnswer(data)
	if err != nil {
		return receiving("the answer to the option MIGRATE", err)
	}
	if c.hello.Purpose == nbd.MigrationSend && answer.Size != c.hello.Size {
		return breach("it accepts the migration of a disk of %d bytes for one of %d", c.hello.Size, answer.Size)
	}
	if h, data, err = c.migrateReply(); err != nil {
		return err
	}
	if h.Reply != nbd.RepAck || len(data) > 0 {
		return breach("a %v reply with %d bytes of data does not end the answer to %v", h.Reply, len(data), nbd.OptMigrate)
	}
	c.answer = &answer
	return nil
}

func (c *Client) migrateReply() (nbd.OptionReplyHeader, []byte, error) {
	h, data, err := nbd.ReadOptionReply(c.conn)
	if err != nil {
		return h, nil, receiving("the answer to the option MIGRATE", err)
	}
	if h.Option != nbd.OptMigrate {
		return h, nil, breach("it answers %v, which nobody asked for, instead of %v", h.Option, nbd.OptMigrate)
	}
	return h, data, nil
}
