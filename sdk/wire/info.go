// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"

	"github.com/flexnbd/flexnbd/sdk/store"
	backendv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/backend/v1"
)

// The enums of backend.proto count as those of package store do; a test holds
// them together.

func infoToProto(i store.Info) *backendv1.Info {
	return &backendv1.Info{
		Size:             i.Size,
		MinBlock:         i.MinBlock,
		PreferredBlock:   i.PreferredBlock,
		Unaligned:        backendv1.Unaligned(i.Unaligned),
		ReadOnly:         i.ReadOnly,
		Fua:              backendv1.Support(i.FUA),
		CanPunch:         i.CanPunch,
		CanKeepAllocated: i.CanKeepAllocated,
		CanFast:          i.CanFast,
		CanDiscard:       i.CanDiscard,
		CanExtents:       i.CanExtents,
		Identity:         i.Identity,
		Survives:         backendv1.Survival(i.Survives),
		Replayable:       i.Replayable,
	}
}

func infoFromProto(p *backendv1.Info) (store.Info, error) {
	if p.GetUnaligned() > backendv1.Unaligned_UNALIGNED_REFUSED || p.GetUnaligned() < 0 ||
		p.GetFua() > backendv1.Support_SUPPORT_NATIVE || p.GetFua() < 0 ||
		p.GetSurvives() > backendv1.Survival_SURVIVAL_ACKNOWLEDGED || p.GetSurvives() < 0 {
		return store.Info{}, fmt.Errorf("the plugin's facts about the disk hold a value this version does not know")
	}
	i := store.Info{
		Size:             p.GetSize(),
		MinBlock:         p.GetMinBlock(),
		PreferredBlock:   p.GetPreferredBlock(),
		Unaligned:        store.Unaligned(p.GetUnaligned()),
		ReadOnly:         p.GetReadOnly(),
		FUA:              store.Support(p.GetFua()),
		CanPunch:         p.GetCanPunch(),
		CanKeepAllocated: p.GetCanKeepAllocated(),
		CanFast:          p.GetCanFast(),
		CanDiscard:       p.GetCanDiscard(),
		CanExtents:       p.GetCanExtents(),
		Identity:         p.GetIdentity(),
		Survives:         store.Survival(p.GetSurvives()),
		Replayable:       p.GetReplayable(),
	}
	if err := i.Check(); err != nil {
		return store.Info{}, fmt.Errorf("the plugin's facts about the disk are wrong: %w", err)
	}
	return i, nil
}
