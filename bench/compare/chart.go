// SPDX-License-Identifier: GPL-3.0-or-later

package compare

import (
	"fmt"
	"strings"
)

// chart is an SVG image being drawn. It has what three kinds of plots need, which is
// far less than a plotting library would add to the program's go.mod.
type chart struct {
	b             strings.Builder
	width, height int
}

// Colours of the page.
const (
	ink   = "#222222"
	faint = "#dddddd"
	paper = "#ffffff"
)

const fontSize = 12

func newChart(width, height int, title, subtitle string) *chart {
	c := &chart{width: width, height: height}
	c.printf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="%d" fill="%s">`,
		width, height, width, height, fontSize, ink)
	c.printf(`<title>%s</title>`, escape(title))
	c.rect(0, 0, float64(width), float64(height), paper)
	c.printf(`<text x="20" y="28" font-size="17" font-weight="bold">%s</text>`, escape(title))
	c.printf(`<text x="20" y="47" fill="#555555">%s</text>`, escape(subtitle))
	return c
}

func (c *chart) printf(format string, arguments ...any) {
	fmt.Fprintf(&c.b, format+"\n", arguments...)
}

var escape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;").Replace

func (c *chart) rect(x, y, w, h float64, fill string) {
	c.printf(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`, x, y, w, h, fill)
}

// bar is a rect that says something when pointed at.
func (c *chart) bar(x, y, w, h float64, fill, note string) {
	c.printf(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"><title>%s</title></rect>`, x, y, w, h, fill, escape(note))
}

func (c *chart) dot(x, y, r float64, fill, note string) {
	c.printf(`<circle cx="%.1f" cy="%.1f" r="%.1f" fill="%s"><title>%s</title></circle>`, x, y, r, fill, escape(note))
}

func (c *chart) line(x1, y1, x2, y2, width float64, stroke string) {
	c.printf(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="%.1f"/>`, x1, y1, x2, y2, stroke, width)
}

// dashed is a line that stands for a limit.
func (c *chart) dashed(x1, y1, x2, y2 float64, stroke string) {
	c.printf(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="1.5" stroke-dasharray="5 3"/>`, x1, y1, x2, y2, stroke)
}

// text is anchored at its start, middle or end.
func (c *chart) text(x, y float64, anchor, s string) {
	c.printf(`<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`, x, y, anchor, escape(s))
}

// small is for numbers at bars.
func (c *chart) small(x, y float64, anchor, s string) {
	c.printf(`<text x="%.1f" y="%.1f" text-anchor="%s" font-size="9">%s</text>`, x, y, anchor, escape(s))
}

// sideways is a text along the vertical axis.
func (c *chart) sideways(x, y float64, s string) {
	c.printf(`<text transform="translate(%.1f %.1f) rotate(-90)" text-anchor="middle">%s</text>`, x, y, escape(s))
}

// legend is a row of coloured names.
func (c *chart) legend(y float64, names, colours []string) {
	x := 20.0
	for i, name := range names {
		c.rect(x, y-10, 12, 12, colours[i])
		c.text(x+17, y, "start", name)
		x += 17 + 6.6*float64(len(name)) + 18
	}
}

func (c *chart) end() string {
	c.printf(`</svg>`)
	return c.b.String()
}
