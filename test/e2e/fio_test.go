// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestFioVerifiesEveryBlock(t *testing.T) {
	needsFio(t)
	onEachBackendOnce(t, func(t *testing.T, b setting) {
		const size = 32 << 20
		s := b.serve(t, size)
		// Sizes are mixed and offsets random, so that requests in flight are
		// neighbours, and every block is read back once all are written.
		jobs := fio(t, s, "--rw=randwrite", "--bsrange=4k-64k", "--iodepth=32", "--size=32M", "--verify=crc32c",
			"--do_verify=1", "--verify_fatal=1", "--norandommap=0", "--fsync=500")
		for _, job := range jobs {
			if job.Error != 0 || job.Write.Bytes != size || job.Read.Bytes != size {
				t.Errorf("fio wrote %d bytes and verified %d, of %d; error %d", job.Write.Bytes, job.Read.Bytes, size, job.Error)
			}
		}
	})
}

func TestFioOnSeveralConnections(t *testing.T) {
	needsFio(t)
	onEachBackendOnce(t, func(t *testing.T, b setting) {
		s := b.serve(t, 32<<20)
		jobs := fio(t, s, "--rw=randwrite", "--bs=4k", "--iodepth=32", "--size=8M", "--numjobs=4", "--offset_increment=8M",
			"--verify=crc32c", "--do_verify=1", "--verify_fatal=1")
		if len(jobs) != 4 {
			t.Fatalf("fio ran %d jobs, want 4", len(jobs))
		}
		for _, job := range jobs {
			if job.Error != 0 || job.Read.Bytes != 8<<20 {
				t.Errorf("fio verified %d bytes of %d; error %d", job.Read.Bytes, 8<<20, job.Error)
			}
		}
	})
}

// needsFio also looks for the engine, which some builds of fio lack.
func needsFio(t *testing.T) {
	t.Helper()
	needs(t, "fio")
	if !strings.Contains(must(t, "fio", "--enghelp"), "\tnbd\n") {
		lacks(t, "this fio has no nbd engine")
	}
}

// fioJob is one job's part of what fio reports.
type fioJob struct {
	Error       int
	Read, Write struct {
		Bytes int64 `json:"io_bytes"`
	}
}

// fio runs fio on what a server serves.
func fio(t *testing.T, s *server, options ...string) []fioJob {
	t.Helper()
	return startFio(t, s, options...).wait()
}

// verifying makes fio write a disk of size bytes and read all of it back, again and
// again until it is interrupted: however fast the disk is, fio is still there when a
// test is done with what fio must not notice.
func verifying(size int64) []string {
	return []string{"--rw=randwrite", "--bs=4k", "--iodepth=16", fmt.Sprintf("--size=%d", size), "--verify=crc32c",
		"--do_verify=1", "--verify_fatal=1", "--fsync=200", "--rate_iops=8000", "--time_based", "--runtime=1h"}
}

// wantVerified checks what such a fio reports: it has read back all that it wrote, but
// for the last round, and all of that was right.
func wantVerified(t *testing.T, jobs []fioJob, size int64) {
	t.Helper()
	for _, job := range jobs {
		if job.Error != 0 || job.Read.Bytes == 0 || job.Write.Bytes-job.Read.Bytes > size {
			t.Errorf("fio wrote %d bytes and verified %d; error %d", job.Write.Bytes, job.Read.Bytes, job.Error)
		}
	}
}

// fioRun is a fio under way.
type fioRun struct {
	t              *testing.T
	cmd            *exec.Cmd
	stdout, stderr output
	ended          chan struct{}
}

// startFio starts fio on what a server serves.
func startFio(t *testing.T, s *server, options ...string) *fioRun {
	t.Helper()
	f := &fioRun{t: t, ended: make(chan struct{})}
	f.cmd = exec.CommandContext(t.Context(), "fio", append([]string{"--name=e2e", "--ioengine=nbd", "--uri=" + s.uri(),
		"--output-format=json", "--verify_state_save=0"}, options...)...)
	f.cmd.Dir = t.TempDir()
	f.cmd.Stdout, f.cmd.Stderr = &f.stdout, &f.stderr
	f.cmd.WaitDelay = time.Second
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = f.cmd.Wait() // ProcessState tells
		close(f.ended)
	}()
	return f
}

// stillRuns fails the test if fio has ended.
func (f *fioRun) stillRuns() {
	f.t.Helper()
	select {
	case <-f.ended:
		f.t.Fatalf("fio has ended already: %v\n%s%s", f.cmd.ProcessState, f.stdout.String(), f.stderr.String())
	default:
	}
}

// wait waits for fio's end, which has to be a good one, and returns its report.
func (f *fioRun) wait() []fioJob {
	f.t.Helper()
	return f.endedWith(0)
}

// interrupt ends a fio that runs until then. It has to have had no error.
func (f *fioRun) interrupt() []fioJob {
	f.t.Helper()
	f.stillRuns()
	if err := f.cmd.Process.Signal(syscall.SIGINT); err != nil {
		f.t.Fatal(err)
	}
	const interrupted = 128
	return f.endedWith(interrupted)
}

// endedWith waits for fio's end and returns its report.
func (f *fioRun) endedWith(status int) []fioJob {
	t := f.t
	t.Helper()
	select {
	case <-f.ended:
	case <-time.After(commandTime):
		t.Fatalf("fio does not end within %v", commandTime)
	}
	text := f.stdout.String()
	if f.cmd.ProcessState.ExitCode() != status {
		t.Fatalf("%q: %v\n%s%s", f.cmd.Args, f.cmd.ProcessState, text, f.stderr.String())
	}
	start := strings.Index(text, "{") // notes come first
	if start < 0 {
		t.Fatalf("fio said: %s", text)
	}
	var report struct{ Jobs []fioJob }
	if err := json.Unmarshal([]byte(text[start:]), &report); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return report.Jobs
}
