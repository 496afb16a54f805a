// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/core/control"
	"github.com/flexnbd/flexnbd/test/journal"
)

// breaks runs `flexnbd break`, which has to end so.
func (s *server) breaks(status int, text string) {
	s.t.Helper()
	r := run(s.t, nil, programs.flexnbd, "break", "--sock", s.sock)
	if r.status != status || r.stdout+r.stderr != text+"\n" {
		s.t.Errorf("break: exit status %d, it says %q%q, want %d and %q", r.status, r.stdout, r.stderr, status, text)
	}
}

// A migration can be stopped wherever it is, and another one be started afterwards.
func TestBreak(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	disk := journal.NewDisk(size)
	data, copied := filledFile(t, disk, size), sparseFile(t, size)
	source := serve(t, "--file", data)
	destination := listenIn(t, atPort("127.0.0.1", freePort(t)), "--file", copied)
	port := portOf(t, destination.addr)
	load := startLoad(t, disk, journal.Options{Servers: at(source, destination), Seed: 4})
	load.more(100)
	broken := func(when string) {
		t.Helper()
		source.breaks(0, "mirror stopped")
		source.breaks(1, "not mirroring")
		if state := source.state(); state["is_mirroring"] != "false" || state["has_control"] != "true" {
			t.Errorf("after a break while %s the status is %v", when, state)
		}
		load.more(20)
		load.unnoticed()
	}

	source.breaks(1, "not mirroring")

	source.mirror(destination.addr, "--max-speed", "100K")
	source.reaches("migration_state", "copying")
	broken("copying")

	// The connection that answers nothing any more.
	source.mirror(destination.addr, "--max-speed", "100K")
	resume := destination.suspend()
	load.more(20)
	broken("the destination hangs")
	resume()

	destination.kill()
	destination = listenIn(t, atPort("127.0.0.1", port), "--file", copied)
	source.mirror(destination.addr, "--max-speed", "100K")
	destination.kill()
	source.reaches("migration_state", "waiting-to-retry")
	broken("waiting to retry")

	destination = listenIn(t, atPort("127.0.0.1", port), "--file", copied)
	source.mirror(destination.addr)
	source.departs()
	destination.arrives()
	load.answeredBy(destination, 50)
	load.stop()
	checkFile(t, disk, copied)
}

// Migrations that come to nothing leave nothing open, on either side.
func TestBreakLeavesNothingOpen(t *testing.T) {
	t.Parallel()
	source := serve(t, "--file", dataFile(t, 4<<20))
	destination := listen(t, "--file", sparseFile(t, 4<<20))
	once := func() {
		source.mirror(destination.addr, "--max-speed", "1M")
		source.reaches("migration_state", "copying")
		source.breaks(0, "mirror stopped")
		destination.reaches("arrival_state", "waiting")
	}
	once() // the first one starts what dials
	open := func(s *server) int { return len(descriptors(t, s.cmd.Process.Pid)) }
	was := map[*server]int{source: open(source), destination: open(destination)}
	for range 10 {
		once()
	}
	for s, n := range was {
		eventually(t, "no more files are open than at first", func() bool { return open(s) <= n })
	}
}

// While a destination says nothing the source waits for it, and can be told not to.
func TestBreakWhileConnecting(t *testing.T) {
	t.Parallel()
	source := serve(t, "--file", dataFile(t, 64<<10))
	silent := newPeer(t, func(net.Conn) {})
	answered := make(chan result, 1)
	go func() {
		answered <- run(t, nil, programs.flexnbd, source.mirrorTo(silent.addr)...)
	}()
	source.reaches("is_mirroring", "true")
	begin := time.Now()
	source.breaks(0, "mirror stopped")
	r := <-answered
	if r.status != 1 || !strings.HasPrefix(r.stderr, "Mirror failed to connect") {
		t.Errorf("mirror: exit status %d, it says %q", r.status, r.stderr)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("break took %v", took)
	}
}

// Once the disk is given away there is nothing to stop, and the source says so as
// long as it is there: until its destination has answered COMMIT.
func TestBreakAfterTheHandOver(t *testing.T) {
	t.Parallel()
	data, copied := dataFile(t, 64<<10), sparseFile(t, 64<<10)
	source := serve(t, "--file", data)
	// Where it will serve nobody listens yet, so that COMMIT comes through the relay.
	destination := listen(t, "--file", copied, "--rebind-port", freePort(t))
	cut := newRelay(t, destination.addr)
	cut.refuseCommit()
	source.mirror(cut.addr)
	source.reaches("migration_state", "committing")
	source.breaks(1, "mirror completed")
	source.refusesMirrorWith("shutting down", destination.addr)
	if conn, err := net.Dial("tcp", source.addr); err == nil {
		_ = conn.Close()
		t.Error("a source that has given its disk away still listens")
	}
	if r := run(t, nil, programs.flexnbd, source.command("read", 0, 512)...); r.status == 0 {
		t.Error("a source that has given its disk away serves it")
	}
	cut.allowCommit()
	source.departs()
	destination.arrives()
	wantSame(t, data, copied)
}

// refusesMirrorWith is refusesMirror for a server without its disk.
func (s *server) refusesMirrorWith(words, addr string) {
	s.t.Helper()
	r := run(s.t, nil, programs.flexnbd, s.mirrorTo(addr)...)
	if r.status != 1 || !strings.HasPrefix(r.stderr, words) {
		s.t.Errorf("mirror: exit status %d, it says %q, want %q", r.status, r.stderr, words)
	}
}

func TestMirrorSpeed(t *testing.T) {
	t.Parallel()
	data, copied := dataFile(t, 8<<20), sparseFile(t, 8<<20)
	source := serve(t, "--file", data)
	destination := listen(t, "--file", copied)
	speed := func(status int, text, value string) {
		t.Helper()
		r := run(t, nil, programs.flexnbd, "mirror-speed", "--sock", source.sock, "--max-speed", value)
		if r.status != status || !strings.Contains(r.stdout+r.stderr, text) {
			t.Errorf("mirror-speed %s: exit status %d, it says %q%q, want %q", value, r.status, r.stdout, r.stderr, text)
		}
	}
	speed(1, "Not currently mirroring", "1M")
	speed(2, "no number of bytes per second", "fast")
	source.mirror(destination.addr, "--max-speed", "100K")
	source.reaches("migration_speed_limit", "102400")
	speed(0, "updated", "200K")
	source.reaches("migration_speed_limit", "204800")
	for _, args := range [][]string{{}, {"-1"}, {"1", "2"}, {"x"}} {
		answer, err := control.Call(t.Context(), source.sock, "mirror_max_bps", args...)
		if err != nil || answer.Code != 1 || answer.Text != "Bad format" {
			t.Errorf("mirror_max_bps %q: %+v, %v", args, answer, err)
		}
	}
	speed(0, "updated", "0")
	source.departs()
	destination.arrives()
	wantSame(t, data, copied)
}

// A capped migration takes as long as it has to.
func TestMirrorKeepsToItsSpeed(t *testing.T) {
	t.Parallel()
	data, copied := dataFile(t, 8<<20), sparseFile(t, 8<<20)
	source := serve(t, "--file", data)
	destination := listen(t, "--file", copied)
	begin := time.Now()
	source.mirror(destination.addr, "--max-speed", "4M")
	source.departs()
	if took := time.Since(begin); took < time.Second || took > 10*time.Second {
		t.Errorf("8 MiB at 4 MiB/s took %v", took)
	}
	destination.arrives()
}

// A rehearsal copies all of the disk and gives nothing away.
func TestMirrorRehearse(t *testing.T) {
	t.Parallel()
	const size = 8 << 20
	disk := journal.NewDisk(size)
	data, copied := filledFile(t, disk, size), sparseFile(t, size)
	source := serve(t, "--file", data)
	destination := listen(t, "--file", copied)
	load := startLoad(t, disk, journal.Options{Servers: at(source, destination), Seed: 5})
	load.more(50)
	r := run(t, nil, programs.flexnbd, source.mirrorTo(destination.addr, "--rehearse", "--wait")...)
	if r.status != 0 || !strings.HasPrefix(r.stdout, "Migration started\nrehearsed: ") || !strings.Contains(r.stdout, "clients held for ") {
		t.Errorf("mirror --rehearse --wait: exit status %d, it says %q%q", r.status, r.stdout, r.stderr)
	}
	load.more(50)
	load.unnoticed()
	if state := source.state(); state["is_mirroring"] != "false" || state["has_control"] != "true" {
		t.Errorf("after a rehearsal the source's status is %v", state)
	}
	if state := destination.state(); state["has_control"] != "false" {
		t.Errorf("after a rehearsal the destination's status is %v", state)
	}
	wantRecords(t, copied, "INCOMPLETE")
	for _, record := range records(t, data) {
		if record == "MIGRATED" {
			t.Error("the source has given the disk away")
		}
	}
	source.mirror(destination.addr)
	source.departs()
	destination.arrives()
	load.answeredBy(destination, 50)
	load.stop()
	checkFile(t, disk, copied)
}

// --wait shows how it goes, and exits as the migration does.
func TestMirrorWait(t *testing.T) {
	t.Parallel()
	data, copied := dataFile(t, 16<<20), sparseFile(t, 16<<20)
	source := serve(t, "--file", data)
	destination := listen(t, "--file", copied)

	// Interrupted, it leaves the migration alone.
	cmd := exec.Command(programs.flexnbd, source.mirrorTo(destination.addr, "--wait", "--max-speed", "500K")...)
	var said output
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the migration has started", func() bool { return strings.HasPrefix(said.String(), "Migration started\n") })
	eventually(t, "--wait shows a line", func() bool { return strings.Contains(said.String(), " MiB sent, ") })
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(said.String(), "the migration goes on") {
		t.Errorf("after SIGINT: %v, it says %q", err, said.String())
	}
	source.reaches("is_mirroring", "true")
	source.breaks(0, "mirror stopped")

	// Stopped, it fails.
	answered := make(chan result, 1)
	go func() {
		answered <- run(t, nil, programs.flexnbd, source.mirrorTo(destination.addr, "--wait", "--max-speed", "500K")...)
	}()
	source.reaches("migration_state", "copying")
	source.breaks(0, "mirror stopped")
	if r := <-answered; r.status != 1 || !strings.Contains(r.stderr, "mirror stopped") {
		t.Errorf("mirror --wait that was stopped: exit status %d, it says %q%q", r.status, r.stdout, r.stderr)
	}

	r := run(t, nil, programs.flexnbd, source.mirrorTo(destination.addr, "--wait")...)
	if r.status != 0 || !strings.HasPrefix(r.stdout, "Migration started\nmigrated: ") {
		t.Errorf("mirror --wait: exit status %d, it says %q%q", r.status, r.stdout, r.stderr)
	}
	source.departs()
	destination.arrives()
	wantSame(t, data, copied)
}

// On a terminal there is a bar.
func TestMirrorWaitOnATerminal(t *testing.T) {
	t.Parallel()
	needs(t, "script")
	data, copied := dataFile(t, 2<<20), sparseFile(t, 2<<20)
	source := serve(t, "--file", data)
	destination := listen(t, "--file", copied)
	command := append([]string{programs.flexnbd}, source.mirrorTo(destination.addr, "--wait", "--max-speed", "1M")...)
	text := must(t, "script", "--quiet", "--return", "--command", strings.Join(command, " "), "/dev/null")
	for _, want := range []string{"Migration started", "copying ", "% |", "migrated: "} {
		if !strings.Contains(text, want) {
			t.Errorf("mirror --wait on a terminal does not show %q:\n%q", want, text)
		}
	}
	source.departs()
	destination.arrives()
}

func TestMirrorUnlink(t *testing.T) {
	t.Parallel()
	data, copied := dataFile(t, 1<<20), sparseFile(t, 1<<20)
	want, err := os.ReadFile(data)
	if err != nil {
		t.Fatal(err)
	}
	source := serve(t, "--file", data)
	destination := listen(t, "--file", copied)
	source.mirror(destination.addr, "--unlink")
	source.departs()
	destination.arrives()
	if exists(t, data) {
		t.Error("the image is still there")
	}
	wantRecords(t, data)
	if got, err := os.ReadFile(copied); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the copy is not what was there (%v)", err)
	}
}

// What is no file can't be removed.
func TestMirrorUnlinkIsForFiles(t *testing.T) {
	t.Parallel()
	source := serve(t, "--file", "65536", "--backend", programs.memory, "--disk-id", "unlinked", "--state-dir", t.TempDir())
	source.refusesMirror("unrecognised parameters to mirror: ", listen(t, "--file", sparseFile(t, 64<<10)).addr, "--unlink")
	if r := run(t, nil, programs.flexnbd, source.mirrorTo("127.0.0.1:1", "--unlink", "--rehearse")...); r.status != 2 {
		t.Errorf("--unlink --rehearse: exit status %d: %s", r.status, r.stderr)
	}
}

// The migration as programs and people see it.
func TestStatusOfAMigration(t *testing.T) {
	t.Parallel()
	data, copied := dataFile(t, 8<<20), sparseFile(t, 8<<20)
	source := serve(t, "--file", data)
	destination := listen(t, "--file", copied)
	source.mirror(destination.addr, "--max-speed", "200K")
	source.copies(256 << 10)
	state := source.state()
	for _, key := range []string{"migration_speed", "migration_duration", "migration_seconds_left", "migration_bytes_left",
		"migration_speed_limit", "migration_pass", "migration_state", "migration_to"} {
		if state[key] == "" {
			t.Errorf("the status has no %s: %v", key, state)
		}
	}
	left := number(t, state["migration_bytes_left"])
	if state["migration_to"] != destination.addr || left <= 0 || left > 8<<20 || state["migration_speed_limit"] != "204800" {
		t.Errorf("the status of a migration is %v", state)
	}
	arriving := destination.state()
	if arriving["arrival_state"] != "receiving" || arriving["arrival_from"] == "" || number(t, arriving["arrival_bytes"]) < 1 {
		t.Errorf("the status of its destination is %v", arriving)
	}

	var object struct {
		Mirroring bool   `json:"is_mirroring"`
		Left      int64  `json:"migration_bytes_left"`
		State     string `json:"migration_state"`
	}
	text := must(t, programs.flexnbd, "status", "--json", "--sock", source.sock)
	if err := json.Unmarshal([]byte(text), &object); err != nil || !object.Mirroring || object.State != "copying" || object.Left <= 0 {
		t.Errorf("status --json: %v, %+v\n%s", err, object, text)
	}
	for s, want := range map[*server]string{source: "the only one", destination: "INCOMPLETE"} {
		if text := must(t, programs.flexnbd, "status", "--explain", "--sock", s.sock); !strings.Contains(text, want) {
			t.Errorf("status --explain does not say %q:\n%s", want, text)
		}
	}

	watching := exec.Command(programs.flexnbd, "status", "--watch=20ms", "--sock", source.sock)
	var said output
	watching.Stdout, watching.Stderr = &said, &said
	if err := watching.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "--watch has shown the status more than once", func() bool { return strings.Count(said.String(), "\n") > 2 })
	source.hurry()
	source.departs()
	if err := watching.Wait(); err != nil {
		t.Errorf("status --watch ends with its server: %v\n%s", err, said.String())
	}
	destination.arrives()
	if text := must(t, programs.flexnbd, "status", "--explain", "--sock", destination.sock); !strings.Contains(text, "RECEIVED") {
		t.Errorf("status --explain does not say RECEIVED:\n%s", text)
	}
}

// Only a server that is prepared, and for this id, takes over without its source.
func TestPromoteIsRefused(t *testing.T) {
	t.Parallel()
	promote := func(s *server, id, text string) {
		t.Helper()
		r := run(t, nil, programs.flexnbd, "promote", "--sock", s.sock, id)
		if r.status != 1 || !strings.Contains(r.stderr, text) {
			t.Errorf("promote %s: exit status %d, it says %q, want %q", id, r.status, r.stderr, text)
		}
	}
	id := strings.Repeat("1a", 16)
	listening := listen(t, "--file", sparseFile(t, 64<<10))
	promote(listening, id, "not prepared")
	promote(listening, "nonsense", "nonsense")
	promote(serve(t, "--file", sparseFile(t, 64<<10)), id, "not prepared")
	if state := listening.state(); state["has_control"] != "false" {
		t.Errorf("the status is %v", state)
	}
}
