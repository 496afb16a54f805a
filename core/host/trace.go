// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// EnvDebug holds words, with commas between them, for people who look for a fault in a
// plugin. "wire" shows each call to a plugin, what it was given and what it answered.
const EnvDebug = "FLEXNBD_DEBUG"

// traced says whether the operator wants to see the wire.
func traced() bool { return slices.Contains(strings.Split(os.Getenv(EnvDebug), ","), "wire") }

// trace shows every call on a line of its own, whatever the log's level is: who sets the
// variable wants to see them. Payloads are left out but for their length.
func trace(log hclog.Logger, program Program) []grpc.DialOption {
	show := func(method string, begin time.Time, asked, answered any, err error) {
		if strings.HasPrefix(method, "/plugin.") {
			return // go-plugin's own
		}
		facts := []any{"plugin", program.Kind.String() + "-" + program.Name, "call", method[strings.LastIndexByte(method, '/')+1:], "asked", summary(asked)}
		if err != nil {
			facts = append(facts, "error", err)
		} else {
			facts = append(facts, "answered", summary(answered))
		}
		log.Log(max(log.GetLevel(), hclog.Debug), "wire", append(facts, "took", time.Since(begin).Round(time.Microsecond))...)
	}
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			begin := time.Now()
			err := call(ctx, method, req, reply, cc, opts...)
			show(method, begin, req, reply, err)
			return err
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, d *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			begin := time.Now()
			stream, err := open(ctx, d, cc, method, opts...)
			show(method, begin, nil, nil, err)
			return stream, err
		}),
	}
}

// summary is a message in words: "offset=4096 data=(512 bytes)".
func summary(message any) string {
	m, ok := message.(proto.Message)
	if !ok {
		return ""
	}
	var words []string
	m.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		words = append(words, string(f.Name())+"="+field(f, v))
		return true
	})
	slices.Sort(words)
	return strings.Join(words, " ")
}

func field(f protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch {
	case f.IsList() && f.Kind() == protoreflect.StringKind:
		var words []string
		for i := range v.List().Len() {
			words = append(words, v.List().Get(i).String())
		}
		return fmt.Sprintf("%.200q", words)
	case f.IsList():
		return fmt.Sprintf("(%d entries)", v.List().Len())
	case f.IsMap():
		return fmt.Sprintf("(%d entries)", v.Map().Len())
	case f.Kind() == protoreflect.BytesKind && f.Name() != "location":
		return fmt.Sprintf("(%d bytes)", len(v.Bytes()))
	case f.Kind() == protoreflect.BytesKind:
		return fmt.Sprintf("%q", v.Bytes())
	case f.Kind() == protoreflect.MessageKind:
		return "{" + summary(v.Message().Interface()) + "}"
	case f.Kind() == protoreflect.StringKind:
		return fmt.Sprintf("%.200q", v.String())
	}
	return v.String()
}
