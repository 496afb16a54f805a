// SPDX-License-Identifier: GPL-3.0-or-later

package client

// callList is a queue of calls, linked through the calls themselves so that it
// takes no memory. A call is in one list at most.
type callList struct{ head, tail *Call }

func (l *callList) push(c *Call) {
	c.next = nil
	if l.head == nil {
		l.head = c
	} else {
		l.tail.next = c
	}
	l.tail = c
}

// pop takes the first call out, nil if there is none.
func (l *callList) pop() *Call {
	c := l.head
	if c != nil {
		l.head, c.next = c.next, nil
	}
	return c
}
