// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/flexnbd/flexnbd/sdk/store"
	backendv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/backend/v1"
)

// everyFact has each field set to something that is not its zero value and that
// no other field of its type could be mistaken for.
var everyFact = store.Info{
	Size:             3 << 20,
	MinBlock:         1024,
	PreferredBlock:   8192,
	Unaligned:        store.RefusesUnaligned,
	ReadOnly:         true,
	FUA:              store.Native,
	CanPunch:         true,
	CanKeepAllocated: true,
	CanFast:          true,
	CanExtents:       true,
	CanDiscard:       true,
	Identity:         "wwid:naa.6001",
	Survives:         store.SurvivesAcknowledged,
	Replayable:       true,
}

func TestEveryFactSurvivesTheWire(t *testing.T) {
	value := reflect.ValueOf(everyFact)
	for i := range value.NumField() {
		if value.Field(i).IsZero() {
			t.Errorf("everyFact does not set %s: a field that this test does not know?", value.Type().Field(i).Name)
		}
		// One fact at a time, so that none can stand in for another.
		var one store.Info
		reflect.ValueOf(&one).Elem().Field(i).Set(value.Field(i))
		checkInfo(t, one)
	}
	checkInfo(t, everyFact)

	sent := infoToProto(everyFact).ProtoReflect()
	fields := sent.Descriptor().Fields()
	if fields.Len() != value.NumField() {
		t.Errorf("the message has %d fields, store.Info %d", fields.Len(), value.NumField())
	}
	for i := range fields.Len() {
		if !sent.Has(fields.Get(i)) {
			t.Errorf("infoToProto does not set %s", fields.Get(i).Name())
		}
	}
}

func checkInfo(t *testing.T, want store.Info) {
	t.Helper()
	got, err := infoFromProto(infoToProto(want))
	if err != nil || got != want {
		t.Errorf("sent %+v, got %+v, error %v", want, got, err)
	}
}

func TestEnumsOfWireAndContractCountAlike(t *testing.T) {
	for _, c := range []struct {
		enum protoreflect.EnumDescriptor
		want map[string]int
	}{
		{backendv1.Unaligned(0).Descriptor(), map[string]int{
			"UNALIGNED_HANDLED": int(store.HandlesUnaligned), "UNALIGNED_REFUSED": int(store.RefusesUnaligned)}},
		{backendv1.Support(0).Descriptor(), map[string]int{
			"SUPPORT_NONE": int(store.None), "SUPPORT_EMULATED": int(store.Emulated), "SUPPORT_NATIVE": int(store.Native)}},
		{backendv1.Survival(0).Descriptor(), map[string]int{
			"SURVIVAL_NOTHING": int(store.SurvivesNothing), "SURVIVAL_FLUSHED": int(store.SurvivesFlushed),
			"SURVIVAL_ACKNOWLEDGED": int(store.SurvivesAcknowledged)}},
	} {
		values := c.enum.Values()
		if values.Len() != len(c.want) {
			t.Errorf("%s has %d values, want %d", c.enum.Name(), values.Len(), len(c.want))
		}
		for i := range values.Len() {
			v := values.Get(i)
			if want, ok := c.want[string(v.Name())]; !ok || want != int(v.Number()) {
				t.Errorf("%s is %d, package store counts %d (known: %v)", v.Name(), v.Number(), want, ok)
			}
		}
		// The next number must be one that store.Info.Check refuses.
		info := infoToProto(everyFact).ProtoReflect()
		field := info.Descriptor().Fields()
		for i := range field.Len() {
			if f := field.Get(i); f.Enum() != nil && f.Enum().Name() == c.enum.Name() {
				for _, wrong := range []int{-1, values.Len(), 256 + int(info.Get(f).Enum())} {
					info.Set(f, protoreflect.ValueOfEnum(protoreflect.EnumNumber(wrong)))
					if got, err := infoFromProto(info.Interface().(*backendv1.Info)); err == nil {
						t.Errorf("%s %d is taken for %+v", f.Name(), wrong, got)
					}
				}
			}
		}
	}
}

func TestImpossibleFactsAreRefusedByName(t *testing.T) {
	for want, change := range map[string]func(*backendv1.Info){
		"size -1":              func(i *backendv1.Info) { i.Size = -1 },
		"size 9223372036":      func(i *backendv1.Info) { i.Size = 1<<63 - 1 },
		"minimum block 3":      func(i *backendv1.Info) { i.MinBlock = 3 },
		"minimum block 131072": func(i *backendv1.Info) { i.MinBlock = 128 << 10 },
		"preferred block 513":  func(i *backendv1.Info) { i.PreferredBlock = 513 },
		"no multiple":          func(i *backendv1.Info) { i.Size++ },
		"does not know":        func(i *backendv1.Info) { i.Fua = 3 },
	} {
		p := infoToProto(everyFact)
		change(p)
		if _, err := infoFromProto(p); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "facts about the disk") {
			t.Errorf("want an error about %q, got %v", want, err)
		}
	}
	if i, err := infoFromProto(nil); err != nil || i != (store.Info{}) {
		t.Errorf("no facts at all: %+v, %v; want the zero ones, which are a disk of no bytes", i, err)
	}
}

func FuzzInfoFromProto(f *testing.F) {
	seed, err := proto.Marshal(infoToProto(everyFact))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, b []byte) {
		var p backendv1.Info
		if proto.Unmarshal(b, &p) != nil {
			return
		}
		i, err := infoFromProto(&p)
		if err != nil {
			return
		}
		if err := i.Check(); err != nil {
			t.Errorf("facts pass that cannot be: %v", err)
		}
		if again, err := infoFromProto(infoToProto(i)); err != nil || again != i {
			t.Errorf("%+v becomes %+v, error %v", i, again, err)
		}
	})
}
