package testkit

import (
	"os"
	"os/exec"
	"testing"
)

// Pyzmq makes sure that python3 has ZeroMQ, by libzmq and with CURVE. Without it the test is
// skipped, or fails where EVENTSPINE_REQUIRE_SERVERS is set.
func Pyzmq(t testing.TB) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "python3", "-c", "import zmq; assert zmq.has('curve')").CombinedOutput()
	if err == nil {
		return
	}
	if os.Getenv("EVENTSPINE_REQUIRE_SERVERS") != "" {
		t.Fatalf("python3 with pyzmq and CURVE is needed: %v\n%s", err, out)
	}
	t.Skip("python3 with pyzmq and CURVE is absent")
}
