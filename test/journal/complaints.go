// SPDX-License-Identifier: GPL-3.0-or-later

package journal

import (
	"fmt"
	"strings"
)

// maxComplaints is how many sectors an error names; a broken disk has thousands.
const maxComplaints = 8

// complaints are the sectors that are not as they have to be.
type complaints struct {
	texts []string
	count int
}

func (c *complaints) add(sector int64, format string, args ...any) {
	if c.count++; c.count <= maxComplaints {
		c.texts = append(c.texts, fmt.Sprintf("sector %d (byte %d): %s", sector, sector*SectorSize, fmt.Sprintf(format, args...)))
	}
}

// full says that further sectors are counted only.
func (c *complaints) full() bool { return c.count >= maxComplaints }

// err is nil without complaints.
func (c *complaints) err(what string) error {
	if c.count == 0 {
		return nil
	}
	more := ""
	if n := c.count - len(c.texts); n > 0 {
		more = fmt.Sprintf("\n\tand %d more sectors", n)
	}
	return fmt.Errorf("journal: %s, %d sectors:\n\t%s%s", what, c.count, strings.Join(c.texts, "\n\t"), more)
}

// list joins what is allowed.
func list(allowed []string) string {
	if len(allowed) == 0 {
		return "nothing"
	}
	return strings.Join(allowed, "; or ")
}
