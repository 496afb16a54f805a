// SPDX-License-Identifier: GPL-3.0-or-later

package crashfs

// file is a file that is being written.
type file struct {
	fs   *FS
	node *node
	path string
}

func (w *file) Write(data []byte) (int, error) {
	err := w.fs.do(Op{Kind: OpWrite, Path: w.path}, func() error {
		w.node.write(data)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return len(data), nil
}

func (w *file) Sync() error {
	return w.fs.do(Op{Kind: OpSync, Path: w.path, node: w.node}, func() error {
		if !w.fs.deafFile {
			w.node.sync()
		}
		return nil
	})
}

// Close makes nothing durable.
func (w *file) Close() error {
	return w.fs.do(Op{Kind: OpClose, Path: w.path}, func() error { return nil })
}
