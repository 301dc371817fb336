package zmq

import "testing"

func TestReqRep(t *testing.T) {
	rep, ep := bound(t, Rep, Options{})
	req := connected(t, Req, Options{}, ep)
	for range 3 {
		send(t, req, "PING")
		expect(t, rep, "PING")
		send(t, rep, "PONG")
		expect(t, req, "PONG")
	}
}
