package socketio

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"eventspine/internal/fault"
	"eventspine/internal/socketio/client"
	"eventspine/internal/socketio/hub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a server on a loopback port. Its tokens are user ids; "bad…" is refused.
type rig struct {
	*Server
	hub *hub.Hub
	url string
	reg *prometheus.Registry
}

func start(t *testing.T, change func(*Options)) *rig {
	t.Helper()
	r := &rig{hub: hub.New(10_000, 100_000, hub.Options{}), reg: prometheus.NewRegistry()}
	o := Options{Hub: r.hub, Origins: []string{"*"}, Registry: r.reg, Verify: func(_ context.Context, token string) (User, error) {
		if strings.HasPrefix(token, "bad") {
			return User{}, fault.Errorf("", fault.Unauthorized, "the token is wrong")
		}
		if name, ok := strings.CutPrefix(token, "brief-"); ok {
			return User{ID: name, Expires: time.Now().Add(200 * time.Millisecond)}, nil
		}
		return User{ID: token}, nil
	}}
	if change != nil {
		change(&o)
	}
	if o.Hub != r.hub {
		r.hub = o.Hub
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	r.Server = s
	web := httptest.NewUnstartedServer(s)
	web.Config.ConnState = func(c net.Conn, state http.ConnState) {
		if tcp, ok := c.(*net.TCPConn); ok && state == http.StateNew {
			_ = tcp.SetWriteBuffer(16 << 10) // a client that stalls is felt soon
		}
	}
	web.Start()
	r.url = web.URL
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		s.Close(ctx)
		web.Close()
	})
	return r
}

func short(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func (r *rig) dial(t *testing.T, user string) *client.Client {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	c, err := client.Dial(short(t), r.url, user, client.Options{HTTP: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(); transport.CloseIdleConnections() })
	return c
}

// until waits for cond, which must come true soon.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		<-tick.C
	}
}

func (r *rig) connected(t *testing.T, n int) {
	t.Helper()
	until(t, "connections registered", func() bool { return r.hub.Len() == n })
}

// total sums a metric over its labels, or over those with the given value of one label.
func (r *rig) total(t *testing.T, name, value string) float64 {
	t.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			match := value == ""
			for _, l := range m.GetLabel() {
				match = match || l.GetValue() == value
			}
			if match {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func (r *rig) ended(t *testing.T, reason string) {
	t.Helper()
	until(t, "a connection ended: "+reason, func() bool {
		return r.total(t, "eventspine_socketio_ended_connections_total", reason) >= 1
	})
}

// poller is a client that speaks long polling by hand.
type poller struct {
	t     *testing.T
	base  string
	token string
	sid   string
	http  *http.Client
	head  http.Header
}

func (r *rig) poller(t *testing.T, token string) *poller {
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &poller{t: t, base: r.url, token: token, http: &http.Client{Transport: tr, Timeout: 10 * time.Second}, head: http.Header{}}
}

func (p *poller) do(method, body string) (int, http.Header, string, error) {
	u := p.base + "/socket.io/?EIO=3&transport=polling&b64=1"
	if p.token != "" {
		u += "&token=" + p.token
	}
	if p.sid != "" {
		u += "&sid=" + p.sid
	}
	req, err := http.NewRequest(method, u, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header = p.head.Clone()
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "text/plain;charset=UTF-8")
	}
	resp, err := p.http.Do(req)
	if err != nil {
		return 0, nil, "", err
	}
	b, err := io.ReadAll(resp.Body)
	err = errors.Join(err, resp.Body.Close())
	return resp.StatusCode, resp.Header, string(b), err
}

// must is do that fails the test unless the status is right.
func (p *poller) must(status int, method, body string) string {
	p.t.Helper()
	got, _, text, err := p.do(method, body)
	if err != nil || got != status {
		p.t.Fatalf("%s answered %d %q %v, want %d", method, got, text, err, status)
	}
	return text
}

// packets splits an answer; the server sends ASCII, so bytes are units.
func (p *poller) packets(body string) []string {
	p.t.Helper()
	var out []string
	for body != "" {
		size, rest, _ := strings.Cut(body, ":")
		n, err := strconv.Atoi(size)
		if err != nil || n > len(rest) {
			p.t.Fatalf("payload %.200q", body)
		}
		out, body = append(out, rest[:n]), rest[n:]
	}
	return out
}

// open does the handshake and returns what came with it.
func (p *poller) open() []string {
	p.t.Helper()
	got := p.packets(p.must(200, http.MethodGet, ""))
	var params struct {
		SID      string
		Upgrades []string
	}
	if err := json.Unmarshal([]byte(got[0][1:]), &params); err != nil || params.SID == "" {
		p.t.Fatalf("handshake %q: %v", got, err)
	}
	p.sid = params.SID
	if params.Upgrades == nil || len(params.Upgrades) > 0 {
		p.t.Fatalf("upgrades %q, want none", params.Upgrades)
	}
	return got
}

// wsFrame is a frame as a client sends it, masked with zeros.
func wsFrame(b0 byte, payload string) string {
	out := []byte{b0}
	if n := len(payload); n < 126 {
		out = append(out, 0x80|byte(n))
	} else {
		out = binary.BigEndian.AppendUint16(append(out, 0x80|126), uint16(n))
	}
	return string(append(out, 0, 0, 0, 0)) + payload
}
