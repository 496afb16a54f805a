// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"fmt"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/transport"
	backendv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/backend/v1"
	pluginv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/plugin/v1"
	transportv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/transport/v1"
)

// Client is the host's end of the line to one plugin process.
type Client struct {
	conn        *grpc.ClientConn
	descriptors *DescriptorChannel
}

// NewClient makes a client of a connection to a server that has the plugin's
// services ([Served.Register]). The caller keeps and closes both arguments.
func NewClient(conn *grpc.ClientConn, descriptors *DescriptorChannel) *Client {
	return &Client{conn: conn, descriptors: descriptors}
}

// Describe asks the plugin what it is and checks the answer.
func (c *Client) Describe(ctx context.Context) (Description, error) {
	r, err := pluginv1.NewPluginClient(c.conn).Describe(ctx, &pluginv1.DescribeRequest{}, grpc.MaxCallRecvMsgSize(maxDescription))
	if err := callError(ctx, err, nil); err != nil {
		return Description{}, err
	}
	d := descriptionFromProto(r)
	if err := d.Check(); err != nil {
		return Description{}, fmt.Errorf("the plugin describes itself wrongly: %w", err)
	}
	return d, nil
}

// OpenDisk opens a disk of a backend. A plugin that uses the SDK is
// byte-granular whatever its MinBlock; one in another language may leave that to
// the host, and says so in Info.Unaligned. The Store may be a [LeaseTaker].
func (c *Client) OpenDisk(ctx context.Context, disk Disk) (store.Store, error) {
	return openRemote(ctx, backendv1.NewBackendClient(c.conn), c.descriptors, disk)
}

// Transport returns the transport at the other end.
func (c *Client) Transport() transport.Transport {
	return &remoteTransport{client: transportv1.NewTransportClient(c.conn), descriptors: c.descriptors}
}

// VersionedPlugins is go-plugin's view of the wire from the host's side.
// [Dispense] finds the client again.
func VersionedPlugins(descriptors *DescriptorChannel) map[int]plugin.PluginSet {
	return map[int]plugin.PluginSet{
		ProtocolVersion: {pluginName: &clientSide{descriptors: descriptors}},
	}
}

// Dispense returns the client of a started plugin.
func Dispense(p plugin.ClientProtocol) (*Client, error) {
	raw, err := p.Dispense(pluginName)
	if err != nil {
		return nil, err
	}
	return raw.(*Client), nil
}

// DialOptions are gRPC's options for the host's end.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithInitialWindowSize(window),
		grpc.WithInitialConnWindowSize(window),
		// go-plugin takes answers of any size; a plugin must not make its host
		// allocate what no call asks for.
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(maxPayload+slack),
			grpc.MaxCallSendMsgSize(maxPayload+slack),
		),
	}
}

type clientSide struct {
	plugin.NetRPCUnsupportedPlugin
	descriptors *DescriptorChannel
}

func (c *clientSide) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error {
	panic("a host serves no plugin")
}

func (c *clientSide) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return NewClient(conn, c.descriptors), nil
}
