// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"context"
	"errors"
	"maps"
	"math"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/option"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
	backendv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/backend/v1"
	pluginv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/plugin/v1"
	"github.com/flexnbd/flexnbd/sdk/wire/wiretest"
)

// unruly is a backend in another language, whose author has not read the page.
type unruly struct {
	backendv1.UnimplementedBackendServer
	pluginv1.UnimplementedPluginServer
	open     *backendv1.OpenResponse
	read     *backendv1.ReadResponse
	extents  *backendv1.ExtentsResponse
	describe *pluginv1.DescribeResponse
	closed   atomic.Uint64 // the disk that was closed last
}

func (u *unruly) Open(context.Context, *backendv1.OpenRequest) (*backendv1.OpenResponse, error) {
	return u.open, nil
}

func (u *unruly) Read(context.Context, *backendv1.ReadRequest) (*backendv1.ReadResponse, error) {
	return u.read, nil
}

func (u *unruly) Extents(context.Context, *backendv1.ExtentsRequest) (*backendv1.ExtentsResponse, error) {
	return u.extents, nil
}

func (u *unruly) Close(_ context.Context, r *backendv1.CloseRequest) (*backendv1.CloseResponse, error) {
	u.closed.Store(r.GetDisk())
	return &backendv1.CloseResponse{}, nil
}

func (u *unruly) Describe(context.Context, *pluginv1.DescribeRequest) (*pluginv1.DescribeResponse, error) {
	return u.describe, nil
}

func (u *unruly) serve(t *testing.T) *wiretest.Line {
	return wiretest.Serve(t, func(g *grpc.Server, _ *wire.DescriptorChannel) {
		backendv1.RegisterBackendServer(g, u)
		pluginv1.RegisterPluginServer(g, u)
	})
}

func TestRefusedDiskIsClosedAgain(t *testing.T) {
	for want, answer := range map[string]*backendv1.OpenResponse{
		"size -5":     {Disk: 7, Lane: "rpc", Info: &backendv1.Info{Size: -5}},
		`lane "ring"`: {Disk: 7, Lane: "ring", Info: &backendv1.Info{}},
		`lane ""`:     {Disk: 7, Info: &backendv1.Info{}},
	} {
		u := &unruly{open: answer}
		_, err := u.serve(t).Client.OpenDisk(t.Context(), wire.Disk{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("OpenDisk: %v, want an error about %s", err, want)
		}
		if u.closed.Load() != 7 {
			t.Errorf("%s: the refused disk was not closed", want)
		}
	}
}

func TestReadOfAnotherLengthIsAnError(t *testing.T) {
	u := &unruly{open: &backendv1.OpenResponse{Lane: "rpc", Info: &backendv1.Info{Size: 4096}}}
	s, err := u.serve(t).Client.OpenDisk(t.Context(), wire.Disk{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 9, 11} {
		u.read = &backendv1.ReadResponse{Data: make([]byte, n)}
		if err := s.ReadAt(t.Context(), make([]byte, 10), 0); store.Errno(err) != syscall.EIO || !strings.Contains(err.Error(), "read of 10 bytes") {
			t.Errorf("a read of 10 bytes answered with %d: %v", n, err)
		}
	}
}

func TestHugeAnswersAreNotTaken(t *testing.T) {
	u := &unruly{open: &backendv1.OpenResponse{Lane: "rpc", Info: &backendv1.Info{Size: 4096}}}
	s, err := u.serve(t).Client.OpenDisk(t.Context(), wire.Disk{})
	if err != nil {
		t.Fatal(err)
	}
	u.extents = &backendv1.ExtentsResponse{Error: &pluginv1.Error{Message: strings.Repeat("x", 20<<20)}}
	if _, err := s.Extents(t.Context(), 0, 4096); store.Errno(err) != syscall.EIO || !strings.Contains(err.Error(), "larger than max") {
		t.Errorf("Extents with an answer of 20 MiB: %.200v", err)
	}
}

func TestUnknownCallIsNotSupported(t *testing.T) {
	u := &unruly{open: &backendv1.OpenResponse{Lane: "rpc", Info: &backendv1.Info{Size: 4096}}}
	s, err := u.serve(t).Client.OpenDisk(t.Context(), wire.Disk{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(t.Context()); !errors.Is(err, store.ErrNotSupported) {
		t.Errorf("Flush: %v", err)
	}
}

func TestDescriptionSurvivesTheWire(t *testing.T) {
	for _, want := range []wire.Description{
		{Kind: wire.KindBackend, Name: "file-2", Version: "1.0 (ü)", SDKVersion: "0.1.0"},
		{Kind: wire.KindTransport, Name: strings.Repeat("x", 64), DeclaresOptions: true},
		{
			Kind: wire.KindBackend, Name: "x", Vendor: "V", Homepage: "https://example.org", License: "Apache-2.0",
			DeclaresOptions: true,
			Options: option.Set{
				{Name: "key", Type: option.Path, Required: true, Help: "the key"},
				{Name: "size", Type: option.Size, Default: "64K", Min: 1 << 10, Max: 1 << 20},
				{Name: "mode", Type: option.Choice, Choices: []string{"a", "b"}},
			},
		},
	} {
		got, err := wiretest.New(t, wire.Served{Description: want}).Client.Describe(t.Context())
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}
}

func TestImpossibleDescriptionIsRefused(t *testing.T) {
	for want, d := range map[string]*pluginv1.DescribeResponse{
		"unknown kind":     {Name: "x"},
		"unknown kind 0":   {Kind: 3, Name: "x"},
		`name ""`:          {Kind: 1},
		`name "A"`:         {Kind: 1, Name: "A"},
		`name "../x"`:      {Kind: 1, Name: "../x"},
		`name "xxx`:        {Kind: 1, Name: strings.Repeat("x", 65)},
		"version \"":       {Kind: 1, Name: "x", Version: strings.Repeat("1", 65)},
		`version "1\n2"`:   {Kind: 1, Name: "x", Version: "1\n2"},
		"SDK version \"\\": {Kind: 1, Name: "x", SdkVersion: "\x1b[31m"},
		"vendor \"":        {Kind: 1, Name: "x", Vendor: strings.Repeat("v", 201)},
		"larger than max":  {Kind: 1, Name: "x", Vendor: strings.Repeat("v", 1<<20)},
		"more than 64":     {Kind: 1, Name: "x", Options: manyOptions(200_000)},
		"declared twice":   {Kind: 1, Name: "x", Options: []*pluginv1.Option{{Name: "a"}, {Name: "a"}}},
		`default of opt`:   {Kind: 1, Name: "x", Options: []*pluginv1.Option{{Name: "a", Type: "int", Default: "b"}}},
	} {
		u := &unruly{describe: d}
		if got, err := u.serve(t).Client.Describe(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %+v, %v, want an error about %s", d, got, err, want)
		}
	}
}

// What a newer plugin says besides, nobody here hears: it works as an old one.
func TestNewerPluginsFieldsAreIgnored(t *testing.T) {
	more := protowire.AppendString(protowire.AppendTag(nil, 1000, protowire.BytesType), "news")
	info := &backendv1.Info{Size: 4096, MinBlock: 1}
	u := &unruly{
		describe: &pluginv1.DescribeResponse{Kind: 1, Name: "x", Version: "99", SdkVersion: "99.0.0"},
		open:     &backendv1.OpenResponse{Disk: 1, Info: info, Lane: "rpc"},
		extents:  &backendv1.ExtentsResponse{Extents: []*backendv1.Extent{{Length: 4096}}},
	}
	for _, m := range []proto.Message{u.describe, u.open, info, u.extents, u.extents.Extents[0]} {
		m.ProtoReflect().SetUnknown(more)
	}
	client := u.serve(t).Client
	if d, err := client.Describe(t.Context()); err != nil || d.Version != "99" {
		t.Errorf("%+v, %v", d, err)
	}
	disk, err := client.OpenDisk(t.Context(), wire.Disk{})
	if err != nil || disk.Info().Size != 4096 {
		t.Fatalf("opened with %v", err)
	}
	if list, err := disk.Extents(t.Context(), 0, 4096); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
}

// A newer plugin's type of option is checked by the plugin itself.
func TestUnknownTypeOfOptionIsText(t *testing.T) {
	u := &unruly{describe: &pluginv1.DescribeResponse{
		Kind: 1, Name: "x", DeclaresOptions: true,
		Options: []*pluginv1.Option{{Name: "when", Type: "date", Default: "today", Min: 1, Max: 2}},
	}}
	d, err := u.serve(t).Client.Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if v, err := d.ParseOptions(map[string]string{"when": "tomorrow"}); err != nil || v["when"] != "tomorrow" {
		t.Errorf("%v, %v", v, err)
	}
}

// Both ends check options; a plugin that does not declare them gets what was given.
func TestOptionsAreCheckedAtThePluginToo(t *testing.T) {
	declared := option.Set{{Name: "size", Type: option.Size, Default: "4K"}}
	for _, c := range []struct {
		declares bool
		given    map[string]string
		want     option.Values
		says     string
	}{
		{true, nil, option.Values{"size": "4096"}, ""},
		{true, map[string]string{"size": "1M"}, option.Values{"size": "1048576"}, ""},
		{true, map[string]string{"size": "big"}, nil, `option size="big": want a number of bytes`},
		{true, map[string]string{"sice": "1"}, nil, `unknown option "sice"; it has: size`},
		{false, map[string]string{"sice": "1"}, option.Values{"sice": "1"}, ""},
	} {
		var got option.Values
		served := wire.Served{
			Description: wire.Description{Kind: wire.KindBackend, Name: "x", Options: declared, DeclaresOptions: c.declares},
			Open: func(_ context.Context, disk wire.Disk) (store.Store, error) {
				got = disk.Options
				return memstore.New(4096), nil
			},
		}
		client := backendv1.NewBackendClient(wiretest.New(t, served).Conn)
		r, err := client.Open(t.Context(), &backendv1.OpenRequest{Options: c.given})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(r.GetError().GetMessage(), c.says) || (c.says == "") != (r.GetError() == nil) || !maps.Equal(got, c.want) {
			t.Errorf("%v: opened with %v, error %v; want %v, %q", c.given, got, r.GetError(), c.want, c.says)
		}
	}
}

// open opens s on a line and returns the plugin's services as they are.
func open(t *testing.T, s store.Store) (backendv1.BackendClient, uint64) {
	t.Helper()
	client := backendv1.NewBackendClient(wiretest.New(t, wire.Served{Open: opener(s)}).Conn)
	r, err := client.Open(t.Context(), &backendv1.OpenRequest{Lanes: []string{"rpc"}})
	if err != nil || r.GetError() != nil {
		t.Fatal(err, r.GetError())
	}
	return client, r.GetDisk()
}

func TestUnknownDiskIsNotFound(t *testing.T) {
	client, disk := open(t, newScripted(4096))
	ctx := t.Context()
	if _, err := client.Close(ctx, &backendv1.CloseRequest{Disk: disk}); err != nil {
		t.Fatal(err)
	}
	for _, id := range []uint64{disk, 0, math.MaxUint64} {
		errs := map[string]error{}
		_, errs["Read"] = client.Read(ctx, &backendv1.ReadRequest{Disk: id})
		_, errs["Write"] = client.Write(ctx, &backendv1.WriteRequest{Disk: id})
		_, errs["PunchHole"] = client.PunchHole(ctx, &backendv1.PunchHoleRequest{Disk: id})
		_, errs["Extents"] = client.Extents(ctx, &backendv1.ExtentsRequest{Disk: id})
		_, errs["Flush"] = client.Flush(ctx, &backendv1.FlushRequest{Disk: id})
		_, errs["Close"] = client.Close(ctx, &backendv1.CloseRequest{Disk: id})
		for call, err := range errs {
			if status.Code(err) != codes.NotFound {
				t.Errorf("%s of disk %d: %v, want NotFound", call, id, err)
			}
		}
	}
}

func TestRangesOutsideTheDiskDoNotReachTheStore(t *testing.T) {
	const size = 4096
	s := newScripted(size)
	client, disk := open(t, s)
	ctx := t.Context()
	for _, r := range []struct{ off, length int64 }{
		{-1, 1}, {size, 1}, {size + 1, 0}, {0, size + 1}, {1, size}, {math.MaxInt64, 1}, {math.MinInt64, 1}, {math.MaxInt64 - 10, 100},
	} {
		errs := map[string]error{}
		_, errs["Read"] = client.Read(ctx, &backendv1.ReadRequest{Disk: disk, Offset: r.off, Length: uint32(r.length)})
		_, errs["Write"] = client.Write(ctx, &backendv1.WriteRequest{Disk: disk, Offset: r.off, Data: make([]byte, r.length)})
		_, errs["PunchHole"] = client.PunchHole(ctx, &backendv1.PunchHoleRequest{Disk: disk, Offset: r.off, Length: r.length})
		_, errs["Extents"] = client.Extents(ctx, &backendv1.ExtentsRequest{Disk: disk, Offset: r.off, Length: r.length})
		for call, err := range errs {
			if status.Code(err) != codes.OutOfRange {
				t.Errorf("%s of %d bytes at %d: %v, want OutOfRange", call, r.length, r.off, err)
			}
		}
	}
	for _, length := range []int64{-1, math.MinInt64, math.MaxInt64} {
		if _, err := client.PunchHole(ctx, &backendv1.PunchHoleRequest{Disk: disk, Length: length}); status.Code(err) != codes.OutOfRange {
			t.Errorf("PunchHole of %d bytes: %v", length, err)
		}
	}
	if _, err := client.Read(ctx, &backendv1.ReadRequest{Disk: disk, Length: 64<<20 + 1}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("Read over the limit: %v", err)
	}
	if len(s.sizes) != 0 {
		t.Errorf("the store was called with %v bytes", s.sizes)
	}
}

func TestCloseWaitsForCallsInFlight(t *testing.T) {
	s := newScripted(4096)
	entered, release := s.hold(t)
	client, disk := open(t, s)
	writing := async(func() error {
		_, err := client.Write(t.Context(), &backendv1.WriteRequest{Disk: disk, Data: []byte("x")})
		return err
	})
	within(t, "write in the store", entered)
	closing := async(func() error {
		_, err := client.Close(t.Context(), &backendv1.CloseRequest{Disk: disk})
		return err
	})
	// From the moment on at which the disk takes no new calls, Close waits.
	await(t, "the disk is being closed", func() bool {
		_, err := client.Flush(t.Context(), &backendv1.FlushRequest{Disk: disk})
		return status.Code(err) == codes.NotFound
	})
	if s.closed.Load() {
		t.Error("the store was closed under a write")
	}
	release()
	if err := within(t, "write", writing); err != nil {
		t.Errorf("write: %v", err)
	}
	if err := within(t, "close", closing); err != nil || !s.closed.Load() {
		t.Errorf("close: %v; the store was closed: %v", err, s.closed.Load())
	}
}

func TestDisksAreBounded(t *testing.T) {
	var open, closed atomic.Int32
	line := wiretest.New(t, wire.Served{Open: func(context.Context, wire.Disk) (store.Store, error) {
		open.Add(1)
		return countClose{newScripted(1), &closed}, nil
	}})
	for range 256 {
		if _, err := line.Client.OpenDisk(t.Context(), wire.Disk{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := line.Client.OpenDisk(t.Context(), wire.Disk{}); err == nil || !strings.Contains(err.Error(), "256 disks are open") {
		t.Errorf("one disk more: %v", err)
	}
	if open.Load() != 257 || closed.Load() != 1 {
		t.Errorf("%d stores were opened and %d closed", open.Load(), closed.Load())
	}
}

type countClose struct {
	*scripted
	closed *atomic.Int32
}

func (c countClose) Close() error {
	c.closed.Add(1)
	return nil
}

func manyOptions(n int) []*pluginv1.Option {
	list := make([]*pluginv1.Option, n)
	for i := range list {
		list[i] = &pluginv1.Option{}
	}
	return list
}
