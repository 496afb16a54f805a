// SPDX-License-Identifier: GPL-3.0-or-later

package journal

import (
	"maps"
	"slices"
)

// Served returns which servers took turns: the shortest sequence of servers that
// explains who answered what and when. A disk that has moved once gives two; more
// mean that a server went on answering when another one had begun. Servers are named
// by their addresses.
func (d *Disk) Served() []string { return served(d.snapshot()) }

func served(history []operation) []string {
	byServer := map[string][]*operation{} // by the time of their answers
	for i := range history {
		if o := &history[i]; o.answered && !o.image && o.writer != filler {
			byServer[o.server] = append(byServer[o.server], o)
		}
	}
	for _, ops := range byServer {
		slices.SortFunc(ops, func(a, b *operation) int { return compareTimes(a.ret, b.ret) })
	}
	var shortest []string
	for _, first := range slices.Sorted(maps.Keys(byServer)) {
		if turns := turnsFrom(first, byServer); shortest == nil || len(turns) < len(shortest) {
			shortest = turns
		}
	}
	return shortest
}

// turnsFrom lets a server answer for as long as no other one must have answered, and
// then that one.
func turnsFrom(server string, byServer map[string][]*operation) []string {
	rest := maps.Clone(byServer)
	var turns []string
	for {
		turns = append(turns, server)
		next, until := earliest(rest, server)
		if next == "" {
			return turns
		}
		rest[server] = slices.DeleteFunc(slices.Clone(rest[server]), func(o *operation) bool { return o.call <= until })
		server = next
	}
}

// earliest returns which other server has to answer first, and by when.
func earliest(rest map[string][]*operation, but string) (server string, until int64) {
	until = open
	for s, ops := range rest {
		if s != but && len(ops) > 0 && ops[0].ret < until {
			server, until = s, ops[0].ret
		}
	}
	return server, until
}
