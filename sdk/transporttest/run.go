// SPDX-License-Identifier: Apache-2.0

package transporttest

import (
	"context"
	"testing"
	"time"
)

// patience is how long any one step may take before the transport is said to
// hang. It is long because test machines are busy.
const patience = 10 * time.Second

// Run holds the factory's transport against every clause of the contract, each
// in a subtest of its own.
func Run(t *testing.T, factory Factory) {
	for _, c := range clauses {
		t.Run(c.name, func(t *testing.T) {
			if err := try(t.Context(), factory(t), patience, c.check); err != nil {
				t.Fatalf("%v\nthe contract says: %s", err, c.says)
			}
		})
	}
}

// try runs one check and puts away everything that it opened.
func try(ctx context.Context, s Subject, patience time.Duration, check func(context.Context, *trial) error) error {
	ctx, cancel := context.WithCancel(ctx)
	trial := &trial{Subject: s, patience: patience}
	err := check(ctx, trial)
	cancel()
	if ended := trial.end(); err == nil {
		err = ended
	}
	return err
}
