// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/core/owner"
	"github.com/flexnbd/flexnbd/core/session"
	"github.com/flexnbd/flexnbd/sdk/transport"
)

// DestinationConfig is what a [Destination] needs.
type DestinationConfig struct {
	// Export is the disk. Nobody else writes to it while it is waited for.
	Export *export.Export
	// Records are those of the disk. With Waiting, Records.Expect has
	// succeeded. Nil where this server can keep none: then Waiting is false and no
	// migration ever comes in.
	Records *owner.Records
	// Waiting: the disk is yet to come (listen). Otherwise this server owns it.
	Waiting bool
	// Address says where the disk will be served once it is here; a sender keeps it,
	// to ask there as well. It is called without a lock. Nil: where it is waited
	// for.
	Address func() transport.Address
	// Handshake is the kind that the server's connections begin with. A sender with
	// the other kind does not get as far as here.
	Handshake session.Handshake
	// Log is told what happens. Nil for silence.
	Log hclog.Logger
}

// Destination is the half of a migration that receives a disk. The package comment
// draws its states. All methods may be called from many goroutines.
type Destination struct {
	config  DestinationConfig
	log     hclog.Logger
	records *owner.Records

	owned chan struct{} // closed by becomeOwner
	fatal chan error    // one error, from becomeUncertain

	ctx  context.Context // of what no connection's context bounds
	stop context.CancelFunc

	mu      sync.Mutex
	phase   phase
	serving bool
	attempt *attempt             // the last one; nil before the first
	live    map[*sender]struct{} // connections that are not yet known to have ended, fenced ones included
	gone    recentIDs            // attempts that are over

	// inFlight counts the Begins without End of all connections. A record that
	// says prepared implies that it is 0: data begins only once the record is
	// withdrawn, and PREPARE only without data in flight.
	inFlight int
	// entrusted is the id under which an oldstyle sender of this process had the
	// disk prepared. Without a goodbye it may come again, and replace that.
	entrusted owner.ID

	lastSender time.Time
}

// phase is how far a destination is on a way that leads only forward.
type phase int

const (
	phaseWaiting   phase = iota // the disk is yet to come
	phaseOwner                  // it is here
	phaseUncertain              // it was taken over, perhaps not durably
)

var _ session.Migration = (*Destination)(nil)

// NewDestination returns the destination of a disk. Close ends it.
func NewDestination(config DestinationConfig) *Destination {
	if config.Waiting && config.Records == nil {
		panic("mirror: a destination that waits for a disk needs records")
	}
	d := &Destination{
		config:  config,
		log:     config.Log,
		records: config.Records,
		owned:   make(chan struct{}),
		fatal:   make(chan error, 1),
		live:    map[*sender]struct{}{},
	}
	if d.log == nil {
		d.log = hclog.NewNullLogger()
	}
	d.ctx, d.stop = context.WithCancel(context.Background())
	if !config.Waiting {
		d.phase, d.serving = phaseOwner, true
		close(d.owned)
	}
	return d
}

// Owned is closed when this server owns the disk, durably: at once if it was not
// waiting for it. The acknowledgement may still be on its way to the source, which
// asks again if it does not get it.
func (d *Destination) Owned() <-chan struct{} { return d.owned }

// Fatal receives an error when the disk was taken over and it is not known whether
// that is durable. Nothing was acknowledged, nobody serves the disk, and the
// process has to end with status 1: its next start looks at the records again.
func (d *Destination) Fatal() <-chan error { return d.fatal }

// HasControl says whether this server owns the disk.
func (d *Destination) HasControl() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.phase == phaseOwner
}

// Serving says whether a disk that this server owns is now served at its address.
// Until then no client is let in.
func (d *Destination) Serving(now bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.serving = now
}

// Close ends what waits in here: a hello that waits for older connections to end,
// and the flush after the goodbye of an oldstyle sender. It does not wait for
// them; their sessions do. It changes nothing about who owns the disk.
func (d *Destination) Close() { d.stop() }

// Guest implements [session.Migration].
func (d *Destination) Guest() string {
	home := d.home()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.guest(home)
}

// guest is Guest with mu held. home is where the disk will be served, in words.
func (d *Destination) guest(home string) string {
	switch {
	case d.phase == phaseUncertain:
		return uncertain
	case d.phase == phaseWaiting && d.prepared() != (owner.ID{}):
		return fmt.Sprintf("this server has a copy of the disk and waits for its source to hand it over (migration %v); "+
			"connect to the source, or again later", d.prepared())
	case d.phase == phaseWaiting:
		return "this server waits for a disk and does not serve it yet; " +
			"send it one with flexnbd mirror, or connect again when that is done"
	case !d.serving:
		return "the disk has arrived and is about to be served at " + home + "; connect there"
	}
	return ""
}

// uncertain is what nobody can be sure of any more.
const uncertain = "this server could not make durable that it owns the disk, and stops; look at its log"

// home is where the disk will be served, in words. The caller does not hold mu.
func (d *Destination) home() string {
	if a := d.address(); a != (transport.Address{}) {
		return a.String()
	}
	return "this address"
}

func (d *Destination) address() transport.Address {
	if d.config.Address == nil {
		return transport.Address{}
	}
	return d.config.Address()
}

// prepared returns the id that the record says the disk is prepared for, zero if
// none.
func (d *Destination) prepared() owner.ID {
	if d.records == nil {
		return owner.ID{}
	}
	if i := d.records.State().Incomplete; i != nil {
		return i.Prepared
	}
	return owner.ID{}
}

// received returns the id that the disk was last taken over by, zero if none.
func (d *Destination) received() owner.ID {
	if d.records == nil {
		return owner.ID{}
	}
	if r := d.records.State().Received; r != nil {
		return r.ID
	}
	return owner.ID{}
}

// takeOver makes this server the owner of the disk, which is prepared for id. The
// caller holds mu, so that no data can begin meanwhile. When it returns nil, that is
// durable.
func (d *Destination) takeOver(id owner.ID) error {
	if d.inFlight != 0 {
		panic(fmt.Sprintf("mirror: %d writes are under way on a disk that is prepared for %v", d.inFlight, id))
	}
	err := d.records.TakeOver(id)
	switch {
	case err == nil:
		d.becomeOwner(id)
	case errors.Is(err, owner.ErrUncertain):
		d.becomeUncertain(err)
	}
	return err
}

// becomeOwner follows a take-over that is durable. The caller holds mu.
func (d *Destination) becomeOwner(id owner.ID) {
	d.phase = phaseOwner
	d.log.Info("the disk has been taken over; this server owns it now", "migration", id)
	close(d.owned)
}

// becomeUncertain follows a take-over that may or may not be durable. The caller
// holds mu.
func (d *Destination) becomeUncertain(err error) {
	d.phase = phaseUncertain
	d.log.Error("the disk was taken over, but perhaps not durably: nobody serves it, this server stops, "+
		"and decides anew when it is started again", "error", err)
	d.fatal <- err
}

// cut cuts connections. The caller does not hold mu.
func cut(links []session.Link) {
	for _, l := range links {
		l.Cut()
	}
}

// refused is the error, with its errno, for what a client may not do.
func refused(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, nbd.EPERM)...)
}
