// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/transport"
	backendv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/backend/v1"
	pluginv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/plugin/v1"
	transportv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/transport/v1"
)

// Served is what one plugin process offers.
type Served struct {
	Description Description
	Open        Opener              // of a backend
	Transport   transport.Transport // of a transport
	Descriptors *DescriptorChannel  // may be nil for a backend
}

// ServeConfig is the plugin's configuration for plugin.Serve.
func ServeConfig(s Served) *plugin.ServeConfig {
	return &plugin.ServeConfig{
		HandshakeConfig: Handshake,
		VersionedPlugins: map[int]plugin.PluginSet{
			ProtocolVersion: {pluginName: &serverSide{served: s}},
		},
		GRPCServer: NewServer,
	}
}

// NewServer makes a gRPC server that takes the largest payload. gRPC's default
// refuses messages over 4 MiB, on the server's side only.
func NewServer(opts []grpc.ServerOption) *grpc.Server {
	return grpc.NewServer(append(opts,
		grpc.ChainUnaryInterceptor(endedContext),
		grpc.MaxRecvMsgSize(maxPayload+slack),
		grpc.MaxSendMsgSize(maxPayload+slack),
		grpc.InitialWindowSize(window),
		grpc.InitialConnWindowSize(window),
	)...)
}

// slack is for everything in a message but its payload, in bytes.
const slack = 1 << 20

// window lets several of the core's largest pieces be under way on one HTTP/2
// connection; gRPC starts with 64 KiB and only slowly learns better.
const window = 4 << 20

// Register puts the plugin's services on a gRPC server.
func (s Served) Register(g *grpc.Server) {
	pluginv1.RegisterPluginServer(g, describer{description: s.Description})
	if s.Open != nil {
		backendv1.RegisterBackendServer(g, newBackendServer(s.opener(), s.Descriptors))
	}
	if s.Transport != nil {
		transportv1.RegisterTransportServer(g, newTransportServer(s.Transport, s.Descriptors))
	}
}

// opener is Open with the options checked and complete, whatever the host has done.
func (s Served) opener() Opener {
	return func(ctx context.Context, disk Disk) (store.Store, error) {
		var err error
		if disk.Options, err = s.Description.ParseOptions(disk.Options); err != nil {
			return nil, err
		}
		return s.Open(ctx, disk)
	}
}

type describer struct {
	pluginv1.UnimplementedPluginServer
	description Description
}

func (d describer) Describe(context.Context, *pluginv1.DescribeRequest) (*pluginv1.DescribeResponse, error) {
	return d.description.proto(), nil
}

// serverSide and clientSide are go-plugin's view of the two ends.
type serverSide struct {
	plugin.NetRPCUnsupportedPlugin
	served Served
}

func (s *serverSide) GRPCServer(_ *plugin.GRPCBroker, g *grpc.Server) error {
	s.served.Register(g)
	return nil
}

func (s *serverSide) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	panic("a plugin never dials itself")
}
