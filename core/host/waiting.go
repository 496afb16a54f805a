// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

// Waiting finds the plugins that wait under a debugger in what
// FLEXNBD_REATTACH_PLUGINS holds. args makes the running binary stand in for one of
// them: see sdk.StandIn.
func Waiting(value string, args func(socket string) []string) ([]Stock, error) {
	if value == "" {
		return nil, nil
	}
	var sockets map[string]string
	if err := json.Unmarshal([]byte(value), &sockets); err != nil {
		return nil, fmt.Errorf("%s=%.200q is not what a plugin prints with --debug: %w", wire.EnvReattach, value, err)
	}
	var list []Stock
	for plugin, socket := range sockets {
		kind, name, _ := strings.Cut(plugin, "-")
		s := Stock{Name: name, Args: args(socket)}
		for _, k := range []wire.Kind{wire.KindBackend, wire.KindTransport} {
			if kind == k.String() {
				s.Kind = k
			}
		}
		if s.Kind == 0 || !wire.ValidName(name) {
			return nil, fmt.Errorf("%s: %.80q is not backend-NAME or transport-NAME", wire.EnvReattach, plugin)
		}
		list = append(list, s)
	}
	return list, nil
}
