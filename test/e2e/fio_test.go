// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestFioVerifiesEveryBlock(t *testing.T) {
	needsFio(t)
	onEachBackend(t, func(t *testing.T, b backend) {
		const size = 32 << 20
		s := serve(t, b.disk(t, size)...)
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
	onEachBackend(t, func(t *testing.T, b backend) {
		s := serve(t, b.disk(t, 32<<20)...)
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

func fio(t *testing.T, s *server, options ...string) []fioJob {
	t.Helper()
	text := must(t, "fio", append([]string{"--name=e2e", "--ioengine=nbd", "--uri=" + s.uri(), "--output-format=json",
		"--verify_state_save=0"}, options...)...)
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
