// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strconv"
	"time"

	"github.com/flexnbd/flexnbd/core/acl"
	"github.com/flexnbd/flexnbd/core/control"
	"github.com/flexnbd/flexnbd/core/mirror"
	"github.com/flexnbd/flexnbd/core/owner"
	"github.com/flexnbd/flexnbd/core/server"
	"github.com/flexnbd/flexnbd/sdk/transport"
)

// verbs are what the control socket answers.
func (s *serving) verbs() map[string]control.Verb {
	verbs := map[string]control.Verb{
		"status":         s.status,
		"explain":        s.explain,
		"acl":            s.replaceACL,
		"mirror":         s.mirror,
		"mirror_wait":    control.UntilHangup(s.awaitMirror),
		"mirror_max_bps": s.limitMirror,
		"break":          control.UntilHangup(s.breakMirror),
		"promote":        s.promote,
	}
	maps.Copy(verbs, testVerbs())
	return verbs
}

// parts are what the verbs ask: there is no server, and no destination, while COMMIT
// is repeated after a start.
func (s *serving) parts() (*server.Server, *mirror.Source, *mirror.Destination) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.server, s.source, s.destination
}

func no(text string) control.Answer { return control.Answer{Code: 1, Text: text} }

// replaceACL answers acl.
func (s *serving) replaceACL(_ context.Context, entries []string) control.Answer {
	server, _, _ := s.parts()
	if server == nil {
		return no("the disk has been given away, and nobody can connect")
	}
	err := server.ReplaceACL(entries)
	var bad *acl.BadEntry
	switch {
	case errors.As(err, &bad):
		return no("bad spec: " + bad.Entry)
	case err != nil:
		return no(err.Error())
	}
	return control.Answer{Text: "updated"}
}

// mirror answers mirror: ADDR PORT [exit|unlink|nothing [BIND [BYTES-PER-SECOND
// [MAX-PAUSE-MS [unconfirmed]]]]]. "-" binds to no address.
func (s *serving) mirror(ctx context.Context, args []string) control.Answer {
	order, bad := s.order(args)
	if bad != "" {
		return no(bad)
	}
	_, source, destination := s.parts()
	if destination == nil || !destination.HasControl() {
		return no("this server does not own its disk, so it cannot give it away")
	}
	if err := source.Start(ctx, order); err != nil {
		return no(err.Error())
	}
	return control.Answer{Text: "Migration started"}
}

// order reads what mirror is told, or says what is wrong with it.
func (s *serving) order(args []string) (order mirror.Order, bad string) {
	switch {
	case len(args) < 2:
		return order, "mirror takes at least two parameters"
	case len(args) > 7:
		return order, "unrecognised parameters to mirror"
	}
	port, err := strconv.ParseUint(args[1], 10, 16)
	switch {
	case !s.isAddress(args[0]):
		return order, fmt.Sprintf("bad IP address: %q is none; names are not looked up", args[0])
	case err != nil || port == 0 && s.carrier.Name == "tcp":
		return order, fmt.Sprintf("bad IP port number: %q is none from 1 to 65535", args[1])
	}
	order.To = transport.Address{Addr: args[0], Port: uint16(port)}
	for i, arg := range args[2:] {
		if bad := s.addParameter(&order, i, arg); bad != "" {
			return order, bad
		}
	}
	return order, ""
}

func (s *serving) addParameter(order *mirror.Order, i int, arg string) (bad string) {
	switch i {
	case 0:
		order.Unlink, order.Rehearse = arg == "unlink", arg == "nothing"
		if arg != "exit" && !order.Unlink && !order.Rehearse {
			return "unrecognised parameters to mirror"
		}
	case 1:
		if arg != "-" {
			if !s.isAddress(arg) {
				return fmt.Sprintf("bad bind address: %q is no IP address", arg)
			}
			order.Bind = transport.Address{Addr: arg}
		}
	case 2:
		n, err := strconv.ParseInt(arg, 10, 64)
		if err != nil || n < 0 {
			return "unrecognised parameters to mirror: " + arg + " is no number of bytes per second"
		}
		order.MaxSpeed = n
	case 3:
		n, err := strconv.ParseUint(arg, 10, 31)
		if err != nil {
			return "unrecognised parameters to mirror: " + arg + " is no number of milliseconds"
		}
		order.MaxPause = time.Duration(n) * time.Millisecond
	case 4:
		order.Unconfirmed = arg == "unconfirmed"
		if !order.Unconfirmed {
			return "unrecognised parameters to mirror"
		}
	}
	return ""
}

// isAddress says whether the transport could dial a: TCP takes IP addresses, what
// others take they know themselves.
func (s *serving) isAddress(a string) bool {
	_, err := netip.ParseAddr(a)
	return err == nil || s.carrier.Name != "tcp"
}

// awaitMirror answers mirror_wait once the migration that is running has ended. With
// parameters, which are those of mirror, it starts one first: of a small disk, the
// server may have ended before a second request could ask how it went.
func (s *serving) awaitMirror(ctx context.Context, args []string) control.Answer {
	if len(args) > 0 {
		if answer := s.mirror(ctx, args); answer.Code != 0 {
			return answer
		}
	}
	_, source, _ := s.parts()
	outcome, err := source.Wait(ctx)
	switch {
	case err != nil:
		return no(err.Error())
	case outcome.Kind == mirror.Stopped:
		return no("mirror stopped")
	case outcome.Leftover != nil:
		return no(describe(outcome) + ", but " + outcome.Leftover.Error())
	}
	return control.Answer{Text: describe(outcome)}
}

// describe says how a migration ended and what it took.
func describe(o mirror.Outcome) string {
	text := fmt.Sprintf("%v: %d bytes sent in %v (%d MiB/s), attempts: %d, passes: %d, clients held for %v",
		o.Kind, o.Bytes, o.Duration.Round(time.Millisecond), o.Speed>>20, o.Attempts, o.Passes, o.Pause.Round(100*time.Microsecond))
	if o.Unconfirmed { // --unconfirmed is leave to go there; flexnbd confirms all the same, and 0.x never does
		text += "; the server there cannot confirm that it has the disk: see to it that it is served there"
	}
	return text
}

// limitMirror answers mirror_max_bps.
func (s *serving) limitMirror(_ context.Context, args []string) control.Answer {
	_, source, _ := s.parts()
	if len(args) != 1 {
		return no("Bad format")
	}
	n, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil || n < 0 {
		return no("Bad format")
	}
	if err := source.SetMaxSpeed(n); err != nil {
		return no("Not currently mirroring")
	}
	return control.Answer{Text: "updated"}
}

// breakMirror answers break.
func (s *serving) breakMirror(ctx context.Context, _ []string) control.Answer {
	_, source, _ := s.parts()
	err := source.Break(ctx)
	switch {
	case err == nil:
		return control.Answer{Text: "mirror stopped"}
	case errors.Is(err, mirror.ErrNotMirroring):
		return no("not mirroring")
	case errors.Is(err, mirror.ErrCompleted):
		return no("mirror completed")
	}
	return no(err.Error())
}

// promote answers promote ID.
func (s *serving) promote(_ context.Context, args []string) control.Answer {
	_, _, destination := s.parts()
	if len(args) != 1 {
		return no("promote takes the id of the migration, which status shows as prepared_id")
	}
	id, err := owner.ParseID(args[0])
	if err != nil {
		return no(err.Error())
	}
	if destination == nil {
		return no("not prepared: this server waits for no disk")
	}
	err = destination.Promote(id)
	switch {
	case err == nil:
		return control.Answer{Text: "promoted"}
	case errors.Is(err, mirror.ErrNotPrepared):
		return no("not prepared: no migration has come as far as that; status shows how far one is")
	case errors.Is(err, mirror.ErrWrongID):
		return no("wrong id: status shows the one that this server is prepared for as prepared_id")
	}
	return no(err.Error())
}

// explain answers explain: what the server does, what the disk's records say, and what
// to do, as the value of one pair, so that its paragraphs survive.
func (s *serving) explain(context.Context, []string) control.Answer {
	text := s.doing() + "\n\n"
	if s.records == nil {
		text += "This server keeps no records of its disk, so it cannot be migrated: " + s.recordsErr.Error()
	} else {
		text += s.records.State().Explain(s.records.Place())
	}
	var p control.Pairs
	p.Add("explanation", text)
	return control.Answer{Text: p.String()}
}

// doing is what the server does, in a sentence. What the records say is about the files
// alone.
func (s *serving) doing() string {
	_, source, destination := s.parts()
	migration := mirror.SourceStatus{HasControl: true}
	if source != nil {
		migration = source.Status()
	}
	switch {
	case !migration.HasControl:
		return "This server has given its disk away and serves nobody."
	case migration.Running:
		return fmt.Sprintf("This server serves the disk, and migrates it to %v (%v).", migration.To, migration.State)
	case destination == nil:
		return "This server serves nobody."
	case !destination.HasControl():
		return "This server runs, and waits for a disk (flexnbd listen)."
	case destination.Guest() != "":
		return fmt.Sprintf("This server has the disk, and waits for the address %v to serve it there.", s.home())
	}
	return "This server runs, and serves the disk."
}
