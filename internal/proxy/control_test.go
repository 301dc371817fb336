package proxy

import (
	"testing"
	"time"

	"eventspine/internal/mdp"
	"eventspine/internal/status"
	"eventspine/internal/testkit"
)

// The proxy registers with its own control plane where no other is named.
func TestControl(t *testing.T) {
	p := start(t, func(c *Config) { c.Service = "proxy" })
	o := mdp.ClientOptions{Endpoints: []string{p.Control()}, Timeout: 2 * time.Second}
	var found []status.Report
	testkit.Eventually(t, patience, func() bool {
		var err error
		found, err = status.Survey(within(t), o)
		return err == nil && len(found) == 1 && found[0].State == status.Alive
	}, "the proxy is in the survey")
	if s := found[0].Status; s.Service != "proxy" || s.Instance != "proxy-1" || len(s.Queues) == 0 {
		t.Errorf("%+v", s)
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
}

func TestWithoutControl(t *testing.T) {
	p := start(t, func(c *Config) { c.ControlBind, c.Service = "", "proxy" })
	if p.Control() != "" {
		t.Errorf("the control plane is at %s", p.Control())
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
}
