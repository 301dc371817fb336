package bridge

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestTheAddressBehindProxies(t *testing.T) {
	proxies, err := parseProxies([]string{"10.0.1.0/24", "192.168.7.7", "fd00::/8"})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		remote string
		header []string
		want   string
	}{
		"no proxy":                       {"203.0.113.5:4000", nil, "203.0.113.5:4000"},
		"no proxy, but it says so":       {"203.0.113.5:4000", []string{"198.51.100.1"}, "203.0.113.5:4000"},
		"proxy":                          {"10.0.1.2:4000", []string{"198.51.100.1"}, "198.51.100.1:0"},
		"proxy without a header":         {"10.0.1.2:4000", nil, "10.0.1.2:4000"},
		"single address":                 {"192.168.7.7:4000", []string{"198.51.100.1"}, "198.51.100.1:0"},
		"its neighbour":                  {"192.168.7.8:4000", []string{"198.51.100.1"}, "192.168.7.8:4000"},
		"client made up the left":        {"10.0.1.2:4000", []string{"1.1.1.1, 2.2.2.2, 198.51.100.1"}, "198.51.100.1:0"},
		"in a header of its own":         {"10.0.1.2:4000", []string{"1.1.1.1", "198.51.100.1"}, "198.51.100.1:0"},
		"two proxies":                    {"10.0.1.2:4000", []string{"1.1.1.1, 198.51.100.1, 10.0.1.9"}, "198.51.100.1:0"},
		"only proxies":                   {"10.0.1.2:4000", []string{"10.0.1.8, 10.0.1.9"}, "10.0.1.8:0"},
		"nonsense":                       {"10.0.1.2:4000", []string{"198.51.100.1, unknown"}, "10.0.1.2:4000"},
		"nonsense behind a second proxy": {"10.0.1.2:4000", []string{"unknown, 10.0.1.9"}, "10.0.1.9:0"},
		"with a port":                    {"10.0.1.2:4000", []string{"198.51.100.1:55"}, "198.51.100.1:0"},
		"IPv6":                           {"[fd00::1]:4000", []string{"2001:db8::5"}, "[2001:db8::5]:0"},
		"IPv6 in brackets":               {"[fd00::1]:4000", []string{"[2001:db8::5]:77"}, "[2001:db8::5]:0"},
		"IPv4 in IPv6":                   {"[::ffff:10.0.1.2]:4000", []string{"198.51.100.1"}, "198.51.100.1:0"},
		"empty":                          {"10.0.1.2:4000", []string{""}, "10.0.1.2:4000"},
	} {
		r := httptest.NewRequest(http.MethodGet, "/socket.io/", nil)
		r.RemoteAddr = c.remote
		for _, v := range c.header {
			r.Header.Add("X-Forwarded-For", v)
		}
		behindProxies(proxies, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if r.RemoteAddr != c.want {
				t.Errorf("%s: the client is %s, want %s", name, r.RemoteAddr, c.want)
			}
		})).ServeHTTP(httptest.NewRecorder(), r)
	}
	for _, s := range []string{"", "everybody", "10.0.1.0/33", "10.0.1"} {
		if _, err := parseProxies([]string{s}); err == nil {
			t.Errorf("%q is taken", s)
		}
	}
}
