package zmq

import (
	"testing"
)

func TestPushPull(t *testing.T) {
	pull, ep := bound(t, Pull, Options{})
	push := connected(t, Push, Options{}, ep)
	send(t, push, "a")
	send(t, push, "b", "", "c")
	expect(t, pull, "a")
	expect(t, pull, "b", "", "c")
}
