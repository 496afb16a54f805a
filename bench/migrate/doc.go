// SPDX-License-Identifier: GPL-3.0-or-later

// Package migrate measures what a migration costs: its time and CPU time against
// nbdcopy's, what it sends, how long clients are held, how fast they are meanwhile, and
// the memory it takes.
//
// A figure is measured on real processes: one flexnbd serves, another one listens, and
// the disk goes from one to the other. Where there is something to compare with, all
// sides have a turn in each round, in an order that changes from round to round, and
// what counts is the median of the ratios within the rounds: the machine may be half as
// fast in the next minute, but it is so for everybody. All of them read the same image,
// since it makes a difference where its pages lie; each writes a file that was made
// anew.
//
// The reference is nbdcopy, with its defaults, between two nbdkits that serve files. It
// does less: nobody writes to its source, nothing has to be handed over. On a disk it is
// asked to flush in the end, as a migration does.
//
//	go run ./bench migrate                          # all of them; writes docs/performance/migration.*
//	go run ./bench migrate -figure dense -rounds 5
//	go run ./bench migrate -help
//
// Times are asserted nowhere: a figure that misses its goal is marked in the table.
//
// Processes are started by the main goroutine alone, which is locked to the main thread:
// they are to be killed when that ends. See [program].
package migrate
