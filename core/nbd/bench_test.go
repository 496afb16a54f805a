// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

import "testing"

// The codec's part of a request: what a server decodes and encodes for one read.

func BenchmarkAppendRequest(b *testing.B) {
	buf := make([]byte, 0, RequestSize)
	r := Request{Command: CmdRead, Cookie: 1, Offset: 4096, Length: 4096}
	b.ReportAllocs()
	for b.Loop() {
		r.Cookie++
		buf = AppendRequest(buf[:0], r)
	}
}

func BenchmarkDecodeRequest(b *testing.B) {
	buf := AppendRequest(nil, Request{Command: CmdRead, Cookie: 1, Offset: 4096, Length: 4096})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeRequest(buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendSimpleReply(b *testing.B) {
	buf := make([]byte, 0, SimpleReplySize)
	cookie := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		cookie++
		buf = AppendSimpleReply(buf[:0], 0, cookie)
	}
}

func BenchmarkDecodeSimpleReply(b *testing.B) {
	buf := AppendSimpleReply(nil, 0, 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeSimpleReply(buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendOffsetData(b *testing.B) {
	buf := make([]byte, 0, ChunkHeaderSize+OffsetDataSize)
	cookie := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		cookie++
		buf = AppendOffsetData(buf[:0], ChunkFlagDone, cookie, 4096, 4096)
	}
}

func BenchmarkDecodeChunkHeader(b *testing.B) {
	buf := AppendOffsetData(nil, ChunkFlagDone, 1, 4096, 4096)
	b.ReportAllocs()
	for b.Loop() {
		h, err := DecodeChunkHeader(buf)
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := DecodeOffsetData(h, buf[ChunkHeaderSize:]); err != nil {
			b.Fatal(err)
		}
	}
}
