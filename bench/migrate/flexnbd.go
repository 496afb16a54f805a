// SPDX-License-Identifier: GPL-3.0-or-later

package migrate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/flexnbd/flexnbd/core/client"
	"github.com/flexnbd/flexnbd/core/control"
)

// flexnbd is a server that has its disk, or waits for one.
type flexnbd struct {
	*program
	image   image
	sock    string
	address string // where it listens
}

// server starts a flexnbd on the image, on a free port, and returns when it is ready.
// verb is serve or listen.
func (b *bench) server(ctx context.Context, verb, lane string, i image, more ...string) (*flexnbd, error) {
	dir := filepath.Dir(i.path)
	f := &flexnbd{image: i, sock: filepath.Join(dir, "sock-"+verb)}
	arguments := append([]string{verb, "--addr", "127.0.0.1", "--port", "0", "--file", i.path, "--sock", f.sock, "--lane", lane}, more...)
	var err error
	if f.program, err = start(dir, b.options.Binary, arguments...); err != nil {
		return nil, err
	}
	err = until(ctx, f.program, func() error {
		status, err := f.status(ctx)
		if err != nil {
			return err
		}
		if built, _ := status.Get("zero_map"); built != "ready" {
			return errors.New("it is still looking for zeroes")
		}
		f.address, _ = status.Get("address")
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, f.stop())
	}
	return f, nil
}

func (f *flexnbd) status(ctx context.Context) (control.Pairs, error) {
	text, err := f.ask(ctx, "status")
	if err != nil {
		return nil, err
	}
	return control.ParsePairs(text)
}

// number is one of the status's numbers, 0 if there is none.
func (f *flexnbd) number(ctx context.Context, key string) (int64, error) {
	status, err := f.status(ctx)
	if err != nil {
		return 0, err
	}
	text, _ := status.Get(key)
	n, _ := strconv.ParseInt(text, 10, 64)
	return n, nil
}

// ask sends a request to the control socket.
func (f *flexnbd) ask(ctx context.Context, verb string, args ...string) (string, error) {
	answer, err := control.Call(ctx, f.sock, verb, args...)
	if err == nil && answer.Code != 0 {
		err = fmt.Errorf("%s: %s", verb, answer.Text)
	}
	return answer.Text, err
}

// mirror orders a migration to an address; then is what to do in the end, exit or
// nothing, and speed its cap in bytes per second, 0 for none.
func (f *flexnbd) mirror(ctx context.Context, to, then string, speed int64) error {
	host, port, err := net.SplitHostPort(to)
	if err != nil {
		return err
	}
	_, err = f.ask(ctx, "mirror", host, port, then, "-", strconv.FormatInt(speed, 10), strconv.FormatInt(maxPause.Milliseconds(), 10))
	return err
}

// maxPause is the longest that clients may be held.
const maxPause = 500 * time.Millisecond

// outcome is what a migration says of itself in the end.
type outcome struct {
	bytes int64
	pause time.Duration
}

// await waits until a migration has ended.
func (f *flexnbd) await(ctx context.Context) (outcome, error) {
	text, err := f.ask(ctx, "mirror_wait")
	if err != nil {
		return outcome{}, err
	}
	return parseOutcome(text)
}

// rehearse is a migration that gives nothing away.
func (f *flexnbd) rehearse(ctx context.Context, to string, speed int64) (outcome, error) {
	if err := f.mirror(ctx, to, "nothing", speed); err != nil {
		return outcome{}, err
	}
	return f.await(ctx)
}

var outcomeText = regexp.MustCompile(`^\w+: (\d+) bytes sent in .*, clients held for ([0-9.a-zµ]+)$`)

func parseOutcome(text string) (o outcome, err error) {
	found := outcomeText.FindStringSubmatch(text)
	if found == nil {
		return o, fmt.Errorf("%q does not say how long clients were held", text)
	}
	if o.bytes, err = strconv.ParseInt(found[1], 10, 64); err != nil {
		return o, err
	}
	o.pause, err = time.ParseDuration(found[2])
	return o, err
}

// serving waits until a client is let in at an address.
func serving(ctx context.Context, p *program, address string) error {
	return until(ctx, p, func() error {
		c, err := connect(ctx, address)
		if err != nil {
			return err
		}
		return c.Disconnect()
	})
}

// connect returns a client that has finished its handshake.
func connect(ctx context.Context, address string) (*client.Client, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return client.Connect(ctx, conn, client.Options{})
}
