// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"os"
	"os/signal"
	"sync"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
)

// stopSignals returns a context that ends at the first signal, and one that ends
// at the second.
func stopSignals(log hclog.Logger) (stop, force context.Context, release func()) {
	stop, stopNow := context.WithCancel(context.Background())
	force, forceNow := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM)
	done := make(chan struct{})
	var waiter sync.WaitGroup
	waiter.Go(func() {
		for _, end := range []context.CancelFunc{stopNow, forceNow} {
			select {
			case s := <-signals:
				log.Info("stopping", "signal", s)
				end()
			case <-done:
				return
			}
		}
	})
	return stop, force, func() {
		signal.Stop(signals)
		close(done)
		waiter.Wait()
		stopNow()
		forceNow()
	}
}
