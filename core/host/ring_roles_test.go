// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-plugin"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/flexnbd/flexnbd/sdk/wire"
	backendv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/backend/v1"
	"github.com/flexnbd/flexnbd/sdk/wire/ring"
)

func init() { roles["test-rubbish"] = serveRubbish }

// rubbish is what a plugin may do with a ring beside what it should. Each gets the
// socket, the memory, and the script to make notes in.
var rubbish = map[string]func(socket, memory *os.File, size int, s script){
	"answers with rubbish": func(socket, _ *os.File, _ int, _ script) {
		answerRing(socket, func(ring.Request) []byte { return bytes.Repeat([]byte{0xab}, 160) })
	},
	"answers twice": func(socket, _ *os.File, _ int, _ script) {
		answerRing(socket, func(r ring.Request) []byte { return well(r).Append(well(r).Append(nil)) })
	},
	"answers what nobody asked": func(socket, _ *os.File, _ int, _ script) {
		answerRing(socket, func(r ring.Request) []byte { c := well(r); c.Cookie += 5; return c.Append(nil) })
	},
	"lies about lengths": func(socket, _ *os.File, _ int, _ script) {
		answerRing(socket, func(r ring.Request) []byte { c := well(r); c.Length = 1<<32 - 1; return c.Append(nil) })
	},
	"does not read": func(socket, _ *os.File, _ int, _ script) { unread = socket },
	"hangs up": func(socket, _ *os.File, _ int, _ script) {
		answerRing(socket, func(ring.Request) []byte { _ = socket.Close(); return nil })
	},
	"takes the memory away": func(socket, memory *os.File, size int, s script) {
		for _, n := range []int64{0, int64(size) / 2, int64(size) * 2} {
			if err := unix.Ftruncate(int(memory.Fd()), n); errors.Is(err, unix.EPERM) {
				s.note("EPERM")
			}
		}
		b, err := unix.Mmap(int(memory.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			s.note(err.Error())
		}
		answerRing(socket, func(r ring.Request) []byte {
			for i := range b {
				b[i] = 0xcd // all of it, whoever's it is
			}
			return well(r).Append(nil)
		})
	},
}

// unread keeps a socket open that nobody reads.
var unread *os.File

// answerRing answers each request.
func answerRing(socket *os.File, answer func(ring.Request) []byte) {
	var b [ring.RequestSize]byte
	for {
		if _, err := io.ReadFull(socket, b[:]); err != nil {
			return
		}
		r, _ := ring.DecodeRequest(b[:])
		_, _ = socket.Write(answer(r))
	}
}

// well is the completion of a request that did what it should.
func well(r ring.Request) ring.Completion { return ring.Completion{Cookie: r.Cookie, Length: r.Length} }

// serveRubbish serves a scripted disk whose rings do what the second argument says; the
// first is the script.
func serveRubbish() {
	s := script(os.Args[1])
	channel, err := wire.NewDescriptorChannel(os.NewFile(3, "descriptor-channel"))
	if err != nil {
		os.Exit(5)
	}
	go func() {
		<-channel.Done()
		os.Exit(0)
	}()
	config := wire.ServeConfig(wire.Served{Description: wire.Description{Kind: wire.KindBackend, Name: "test"}, Open: openScripted, Descriptors: channel})
	config.GRPCServer = func(opts []grpc.ServerOption) *grpc.Server {
		return wire.NewServer(append(opts, grpc.UnaryInterceptor(
			func(ctx context.Context, r any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
				if filepath.Base(info.FullMethod) != "OpenRing" {
					return handle(ctx, r)
				}
				request := r.(*backendv1.OpenRingRequest)
				socket, err := channel.Receive(ctx, request.GetSocket())
				memory, memoryErr := channel.Receive(ctx, request.GetMemory())
				if err := errors.Join(err, memoryErr); err != nil {
					return nil, err
				}
				go rubbish[os.Args[2]](socket, memory, int(request.GetMemorySize()), s)
				return &backendv1.OpenRingResponse{}, nil
			})))
	}
	os.Stdout = os.NewFile(9, "stdout")
	plugin.Serve(config)
}
