// SPDX-License-Identifier: GPL-3.0-or-later

// Package journal puts load on a disk that may move from server to server, keeps a
// model of what has been acknowledged, and says afterwards whether the servers kept
// their word.
//
//	disk := journal.NewDisk(64 << 20)
//	err := disk.Fill(image, 0, 32<<20)           // what the disk holds before
//	load, err := journal.NewLoad(disk, journal.Options{
//		Servers: []journal.Server{journal.TCP("127.0.0.1:10809"), journal.TCP("127.0.0.2:10809")},
//		Seed:    1,
//	})
//	load.Start()
//	err = load.AwaitAcknowledged(ctx, 1000)      // then migrate, kill, stop...
//	err = load.AwaitAnsweredBy(ctx, destination, 1000)
//	err = load.Stop(ctx)                         // no request failed
//	report, err := disk.Check(ctx, imageOfTheNewOwner)
//
// # The model
//
// A [Disk] has one register for each sector of 512 bytes. NBD promises that a write
// as a whole is done once it is answered, and nothing about the order in which the
// sectors of concurrent requests are changed; so a sector is the unit. Each write's
// content says which write it is and which sector: whatever is read names the write
// that it came from, and bytes that no write made are noticed. Zeroes, written by
// WRITE_ZEROES, are a value too, the one that every disk starts with; they carry no
// name, so that one zeroing can't be told from another.
//
// The history of a register has to be linearizable: each request appears to take
// effect at one moment between its sending and its answer. That holds "nothing
// acknowledged is lost", "reads never go backwards" and "no two servers answer for
// one disk" at once, on whichever servers the requests were answered. [Disk.Check]
// judges it, sector by sector, where requests overlapped with porcupine.
//
// # Requests without an answer
//
// A connection that breaks leaves a request behind that may have been carried out,
// may still be carried out, or never is. A [Load] then connects anew, to whichever
// server lets it in, and repeats the request with the same content, until it is
// answered. In the history each attempt is a write of its own:
//
//   - An attempt on a connection that the server's side broke may take effect at any
//     time until the repeat is answered, but not later. This is what lets clients
//     that reconnect rely on their disk: a server that has gone must not change it
//     once another one has answered.
//   - An attempt that this side gave up, after Options.RequestTimeout or at the end
//     of Stop, may lie in the socket of a server that is stopped, and take effect
//     whenever that continues: it is open-ended.
//   - An attempt that was never answered, nor repeated with an answer, is
//     open-ended, and so is one that a server refused with an error.
//
// An open-ended write may be what a read finds at any later time, once: when a newer
// write has been acknowledged and then been read, the old one must not show again
// after it has shown before.
//
// # Torn sectors
//
// The kernel lets a read see half of a write that is under way. A sector that mixes
// the words of several writes is let pass, and not used any further, if a write of
// this sector was under way during the read. Anywhere else, and in a final image, it
// is an error.
//
// # Pieces
//
//   - [Disk]: the model. [Disk.Compare] holds an image against it, [Disk.Check] judges
//     the whole history, [Disk.Served] says which servers took turns.
//   - [Load]: the clients. Progress is waited for, never slept for.
//   - [Break]: a connection that the server's side ended, and when. A server that
//     keeps its clients has none.
//   - [Pauses]: how long requests waited for their answers.
//
// # Locks
//
// Load's mutex and Disk's are leaves: neither is held while the other is taken. All
// exported methods may be called from any goroutine.
//
// What the package does not do: TRIM, whose result is undefined until it is written
// again; FLUSH, since killed processes lose no page cache (power cuts are for
// core/owner/crashfs); more than one request at a time on a connection.
package journal
