package ports

import (
	"net"
	"testing"
)

func TestPortsAreFreeDistinctAndNotThoseOfOutgoingConnections(t *testing.T) {
	const n = 200
	found, err := Free(n)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, p := range found {
		if p >= ephemeral() && ephemeral() >= lowest+enough {
			t.Errorf("port %d is one of those from %d on", p, ephemeral())
		}
		seen[p] = true
	}
	if len(seen) != n {
		t.Errorf("%d distinct ports of %d", len(seen), n)
	}
	at, err := Addr()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}
