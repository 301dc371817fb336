package mdp

import (
	"testing"
	"time"

	"eventspine/internal/fault"
	"eventspine/internal/zmq"
	"eventspine/internal/zmq/curve"
)

func keys(t *testing.T) curve.Pair {
	t.Helper()
	p, err := curve.GenerateKeys()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// With CURVE only the holders of known keys register and ask.
func TestCurve(t *testing.T) {
	server, known, stranger := keys(t), keys(t), keys(t)
	b, err := Listen(within(t), "tcp://127.0.0.1:0", BrokerOptions{Heartbeat: 100 * time.Millisecond, Curve: &zmq.CurveOptions{
		Server: true, Public: server.Public, Secret: server.Secret, Authorize: zmq.AllowKeys(known.Public)}})
	if err != nil {
		t.Fatal(err)
	}
	start(t, b.Run)
	with := func(p curve.Pair) *zmq.CurveOptions {
		return &zmq.CurveOptions{Public: p.Public, Secret: p.Secret, ServerKey: server.Public}
	}
	for service, c := range map[string]*zmq.CurveOptions{"known": with(known), "stranger": with(stranger), "plain": nil} {
		w, err := NewWorker(WorkerOptions{Service: service, Endpoint: b.Endpoint(), Heartbeat: 100 * time.Millisecond, Curve: c}, echo)
		if err != nil {
			t.Fatal(err)
		}
		start(t, w.Run)
	}
	asks := func(c *zmq.CurveOptions, tries int) *Client {
		t.Helper()
		client, err := NewClient(ClientOptions{Endpoints: []string{b.Endpoint()}, Timeout: 500 * time.Millisecond, Retries: tries, Curve: c})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		return client
	}
	good := asks(with(known), 20)
	if m, err := good.Request(within(t), "known", []byte("secret")); err != nil || show(m) != "secret" {
		t.Errorf("%q, %v", m, err)
	}
	for _, service := range []string{"stranger", "plain"} {
		if m, err := good.Request(within(t), ServiceLookup, []byte(service)); err != nil || show(m) != statusNotFound {
			t.Errorf("%s: %q, %v", service, m, err)
		}
	}
	for name, c := range map[string]*zmq.CurveOptions{"a stranger": with(stranger), "one without keys": nil} {
		if m, err := asks(c, -1).Request(within(t), "known", []byte("x")); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("%s got %q, %v", name, m, err)
		}
	}
}
