//go:build !unix

package zmtp

import "io"

// tryWriter gives a way to write to w without ever waiting, nil when w has none.
func tryWriter(w io.Writer) func([]byte) (int, error) {
	if own, ok := w.(interface{ TryWrite([]byte) (int, error) }); ok {
		return own.TryWrite
	}
	return nil
}
