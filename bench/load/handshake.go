// SPDX-License-Identifier: GPL-3.0-or-later

package load

import (
	"errors"
	"fmt"
	"io"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// Options say how to speak to a server.
type Options struct {
	// Export is the name to ask a newstyle server for.
	Export string
	// Structured asks for structured replies. A server that has none answers
	// with simple ones, as an oldstyle server always does.
	Structured bool
}

// agreement is what a handshake has led to.
type agreement struct {
	size       uint64 // of the disk, in bytes
	flags      nbd.TransmissionFlags
	structured bool
}

// shake goes from the greeting to the transmission phase, in whichever style the
// server greets.
func shake(s io.ReadWriter, o Options) (agreement, error) {
	var greeting [nbd.OldstyleGreetingSize]byte
	if _, err := io.ReadFull(s, greeting[:nbd.GreetingSize]); err != nil {
		return agreement{}, fmt.Errorf("the server's greeting: %w", err)
	}
	offered, err := nbd.DecodeGreeting(greeting[:nbd.GreetingSize])
	if errors.Is(err, nbd.ErrOldstyle) {
		if _, err := io.ReadFull(s, greeting[nbd.GreetingSize:]); err != nil {
			return agreement{}, fmt.Errorf("the server's greeting: %w", err)
		}
		size, flags, err := nbd.DecodeOldstyleGreeting(greeting[:])
		return agreement{size: size, flags: flags}, err
	}
	if err != nil {
		return agreement{}, err
	}
	if offered&nbd.FlagFixedNewstyle == 0 {
		return agreement{}, errors.New("the server speaks neither oldstyle nor fixed newstyle")
	}
	flags := nbd.ClientFlags(offered & (nbd.FlagFixedNewstyle | nbd.FlagNoZeroes))
	if _, err := s.Write(nbd.AppendClientFlags(nil, flags)); err != nil {
		return agreement{}, err
	}
	return haggle(s, o)
}

// haggle asks for the options, one after the other.
func haggle(s io.ReadWriter, o Options) (a agreement, err error) {
	if o.Structured {
		refused, err := ask(s, nbd.OptStructuredReply, nil, nil)
		if err != nil {
			return a, err
		}
		a.structured = refused == nil
	}
	known := false
	refused, err := ask(s, nbd.OptGo, nbd.AppendInfoRequest(nil, o.Export), func(data []byte) error {
		info, err := nbd.ParseInfo(data)
		if info.Type == nbd.InfoExport {
			a.size, a.flags, known = info.Size, info.Flags, true
		}
		return err
	})
	switch err := errors.Join(err, refused); {
	case err != nil:
		return a, err
	case !known:
		return a, errors.New("the server does not tell the size of its export")
	}
	return a, nil
}

// maxAnswers bounds how much a server may tell about one option.
const maxAnswers = 64

// ask sends an option and hands the data of each NBD_REP_INFO to info. refused says
// that the server does not want it.
func ask(s io.ReadWriter, option nbd.Option, data []byte, info func([]byte) error) (refused, err error) {
	if _, err := s.Write(nbd.AppendOption(nil, option, data)); err != nil {
		return nil, err
	}
	for range maxAnswers {
		h, data, err := nbd.ReadOptionReply(s)
		switch {
		case err != nil:
			return nil, fmt.Errorf("the answer to %v: %w", option, err)
		case h.Reply.IsError():
			return fmt.Errorf("the server answers %v with %v %.200q", option, h.Reply, data), nil
		case h.Reply == nbd.RepAck:
			return nil, nil
		case h.Reply == nbd.RepInfo && info != nil:
			if err := info(data); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("the server answers %v with %v", option, h.Reply)
		}
	}
	return nil, fmt.Errorf("the server answers %v more than %d times", option, maxAnswers)
}
