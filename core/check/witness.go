// SPDX-License-Identifier: GPL-3.0-or-later

package check

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"
)

// witness is a log that remembers what flexnbd itself warned of. A plugin's own lines
// go by another logger, which comes from ResetNamed or With.
type witness struct {
	hclog.Logger

	mu     sync.Mutex
	warned []string
}

// Warn implements [hclog.Logger].
func (w *witness) Warn(msg string, args ...any) {
	w.remember(msg, args)
	w.Logger.Warn(msg, args...)
}

// Error implements [hclog.Logger].
func (w *witness) Error(msg string, args ...any) {
	w.remember(msg, args)
	w.Logger.Error(msg, args...)
}

func (w *witness) remember(msg string, args []any) {
	var b strings.Builder
	b.WriteString(msg)
	for i := 0; i+1 < len(args); i += 2 {
		fmt.Fprintf(&b, ", %v: %v", args[i], args[i+1])
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.warned = append(w.warned, b.String())
}

// forget begins anew.
func (w *witness) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.warned = nil
}

// err returns the first warning, nil if there was none.
func (w *witness) err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch n := len(w.warned); n {
	case 0:
		return nil
	case 1:
		return errors.New("flexnbd warned: " + w.warned[0])
	default:
		return fmt.Errorf("flexnbd warned %d times, first: %s", n, w.warned[0])
	}
}
