// SPDX-License-Identifier: Apache-2.0

// Flexnbd-backend-xts serves a disk from a file that holds it encrypted, with
// AES-XTS-256. README.md says how to use it; this says how it is made, since it
// is an example to copy from.
//
// A backend that keeps its bytes in a file has most of its work done already:
// package fdstore is a Store over an open file. So the Store in here is thin,
// and stands in front of that one, the lower store:
//
//	clients   any bytes, at any offset
//	align     the SDK's: whole sectors of 4096 bytes, by read-modify-write if need be
//	Store     encrypts and decrypts sector n
//	fdstore   4096 bytes of ciphertext at 4096 + n*4096 of the file, and the lock
//
// Each file has one noun: key is what is in the key file, header the first 4096
// bytes of the image, sectors the cipher, Store the disk; image is what becomes a
// disk when it is opened.
//
// # Holes
//
// A hole of the file is a hole of the disk and reads as zeroes, although zeroes
// would decrypt to noise. See [sectors] for why that is safe.
//
// # Concurrency
//
// There is no lock in here. The kernel keeps reads and writes of a file apart as
// well as the contract asks for, a sector's ciphertext depends on nothing but the
// sector, and the SDK's align keeps the read-modify-write of parts of a sector
// apart from other writes, and from those who read the other parts. What align can't
// help with is a reader that sees half of a write which it overlaps, and a power cut;
// [sectors] has a word on those, too.
package main
