// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"time"
)

// What follows is told by the migration's goroutines to whoever asks for its status.

// begin says that an attempt runs.
func (m *mirroring) begin(t *transfer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.transfer, m.speed = t, t.speed
}

// become changes the state. t is the attempt that runs, nil if none does.
func (m *mirroring) become(state SourceState, t *transfer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state, m.transfer = state, t
}

// becomeConverging is the state between passes.
func (m *mirroring) becomeConverging(t *transfer) {
	state := StateConverging
	if t.through.isOn() {
		state = StateWriteThrough
	}
	m.become(state, t)
}

// becomeDeparted is the commit point.
func (m *mirroring) becomeDeparted() {
	m.departedOnce.Do(func() { close(m.departed) })
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = StateDeparting
}

// becomeUncertain ends the migration with nobody serving.
func (m *mirroring) becomeUncertain(err error) {
	m.log.Error("nobody knows whether the disk was given away; nothing is served until this process is started again and looks", "error", err)
	m.note(err)
	m.become(StateUncertain, nil)
	m.source.fatal <- err
	m.finish(m.summary(Stopped, 0), err)
}

// note keeps an error for the status.
func (m *mirroring) note(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lastError = err
}

// paused says how long clients were held.
func (m *mirroring) paused(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pauseLast = d
}

// summary is what there is to say at the end.
func (m *mirroring) summary(kind OutcomeKind, pause time.Duration) Outcome {
	m.mu.Lock()
	defer m.mu.Unlock()
	o := Outcome{
		Kind: kind, Duration: time.Since(m.began), Attempts: m.attempt, Passes: int(m.passes.Load()),
		Bytes: m.speed.bytes(), Pause: pause,
	}
	if m.transfer != nil {
		o.ID = m.transfer.id
	}
	if took := time.Since(m.speed.began).Seconds(); took > 0 {
		o.Speed = int64(float64(o.Bytes) / took)
	}
	return o
}

// status is [Source.Status].
func (m *mirroring) status(now time.Time) SourceStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	end := now
	if !m.ended.IsZero() {
		end = m.ended
	}
	s := SourceStatus{
		State: m.state, Running: m.ended.IsZero(), HasControl: !m.hasDeparted(), To: m.order.To,
		Attempt: m.attempt, Pass: int(m.passes.Load()),
		BytesSent: m.speed.bytes(), Speed: m.speed.perSecond(now), SpeedLimit: m.limit.get(),
		Duration: end.Sub(m.began), SecondsLeft: -1,
		NotConverging: !m.converging.Load(), PauseLast: m.pauseLast, LastError: m.lastError, LateWrites: m.late.Load(),
	}
	if !s.Running && s.HasControl {
		s.State = StateIdle
	}
	if t := m.transfer; t != nil {
		s.BytesLeft = t.bitmap.Bytes()
	}
	if s.Speed > 0 {
		s.SecondsLeft = (s.BytesLeft + s.Speed - 1) / s.Speed
	}
	return s
}
