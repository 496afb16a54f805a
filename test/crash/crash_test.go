// SPDX-License-Identifier: GPL-3.0-or-later

package crash

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// rows are those of docs/reliability.md, in its order.
var rows = []struct {
	name string
	run  func(*testing.T)
}{
	// While copying.
	{"copying-source-killed", copyingSourceKilled},
	{"copying-destination-killed", copyingDestinationKilled},
	{"copying-destination-stopped", copyingDestinationStopped},
	{"copying-connection-cut", copyingConnectionCut},
	{"copying-destination-write-fails", copyingDestinationWriteFails},
	{"copying-next-record-fails", copyingNextRecordFails},
	{"next-written-source-killed", nextWrittenSourceKilled},
	// Requests are held back.
	{"held-destination-stopped", heldDestinationStopped},
	{"held-source-killed", heldSourceKilled},
	// PREPARE.
	{"prepare-destination-stopped", prepareDestinationStopped},
	{"prepare-destination-killed", prepareDestinationKilled},
	{"prepare-no-space", prepareNoSpace},
	{"prepare-io-error", prepareIOError},
	{"prepare-record-fails", prepareRecordFails},
	{"prepare-reply-lost", prepareReplyLost},
	{"prepared-source-killed", preparedSourceKilled},
	{"prepared-source-lost", preparedSourceLost},
	// The commit point.
	{"rename-fails", renameFails},
	{"rename-sync-fails", renameSyncFails},
	{"renamed-source-killed", renamedSourceKilled},
	{"committed-source-killed", committedSourceKilled},
	// COMMIT.
	{"commit-lost", commitLost},
	{"commit-sent-source-killed", commitSentSourceKilled},
	{"commit-destination-killed", commitDestinationKilled},
	{"commit-destination-stopped", commitDestinationStopped},
	{"taken-over-destination-killed", takenOverDestinationKilled},
	{"taken-over-sync-fails", takenOverSyncFails},
	{"acknowledgement-lost", acknowledgementLost},
	{"acknowledged-source-killed", acknowledgedSourceKilled},
	{"acknowledge-record-fails", acknowledgeRecordFails},
	{"unlink-source-killed", unlinkSourceKilled},
	// After it.
	{"rebind-source-alive", rebindSourceAlive},
	{"rebind-destination-killed", rebindDestinationKilled},
	{"late-messages", lateMessages},
	{"ignored-departure", ignoredDeparture},
	// Cuts at every byte.
	{"cut-handshake", cutHandshake},
	{"cut-prepare", cutPrepare},
	{"cut-commit", cutCommit},
	// A destination that is none.
	{"start-nobody-listens", startNobodyListens},
	{"start-hung", startHung},
	{"start-not-nbd", startNotNBD},
	{"start-wrong-size", startWrongSize},
	{"start-refused-by-acl", startRefusedByACL},
	{"start-not-listening", startNotListening},
	{"start-other-sender", startOtherSender},
	{"start-other-server", startOtherServer},
	{"start-too-small", startTooSmall},
	{"start-no-records", startNoRecords},
	{"listen-no-records", listenNoRecords},
	// On purpose.
	{"broken", broken},
	{"broken-too-late", brokenTooLate},
	{"source-stopped-by-signal", sourceStoppedBySignal},
	{"stalled-client", stalledClient},
	{"client-cut-mid-write", clientCutMidWrite},
	{"random", randomKills},
	// Peers without the protocol.
	{"oldstyle-source-lost", oldstyleSourceLost},
	{"oldstyle-goodbye-lost", oldstyleGoodbyeLost},
	{"unconfirmed-source-killed", unconfirmedSourceKilled},
}

func TestCrash(t *testing.T) {
	t.Parallel()
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			row.run(t)
		})
	}
}

// each runs a row's variants, one for each failpoint.
func each(t *testing.T, points []string, run func(t *testing.T, point string)) {
	t.Helper()
	for _, point := range points {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			run(t, point)
		})
	}
}

// The page says which command repeats a row.
func TestEachRowIsOnTheReliabilityPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	var there, here []string
	for _, m := range regexp.MustCompile("`go test ./test/crash -run '\\^TestCrash\\$/\\^([a-z-]+)\\$'`").FindAllStringSubmatch(string(page), -1) {
		there = append(there, m[1])
	}
	for _, row := range rows {
		here = append(here, row.name)
	}
	if !slices.Equal(there, here) {
		t.Errorf("docs/reliability.md has the rows\n%v\nand the test\n%v", there, here)
	}
}
