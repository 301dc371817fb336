package bridge

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"eventspine/internal/fault"
)

// parseProxies reads addresses and networks such as 10.0.1.0/24.
func parseProxies(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			ip, err := netip.ParseAddr(s)
			if err != nil {
				return nil, fault.Errorf("", fault.Invalid, "holds %q, which is neither an address nor a network such as 10.0.1.0/24", s)
			}
			p = netip.PrefixFrom(ip, ip.BitLen())
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// behindProxies gives requests that come through one of the proxies the address of the client that
// the proxy saw, so that limits by address mean the clients and not the proxy. Of the addresses in
// X-Forwarded-For the last one that is no proxy's counts: whatever stands left of it the client may
// have made up.
func behindProxies(proxies []netip.Prefix, next http.Handler) http.Handler {
	if len(proxies) == 0 {
		return next
	}
	trusted := func(ip netip.Addr) bool {
		return slices.ContainsFunc(proxies, func(p netip.Prefix) bool { return p.Contains(ip) })
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client, ok := addressOf(r.RemoteAddr)
		hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
		for ok && trusted(client) && len(hops) > 0 {
			last := hops[len(hops)-1]
			hops = hops[:len(hops)-1]
			var hop netip.Addr
			if hop, ok = addressOf(strings.TrimSpace(last)); ok {
				client = hop
				r.RemoteAddr = net.JoinHostPort(client.String(), "0")
			}
		}
		next.ServeHTTP(w, r)
	})
}

// addressOf reads an address with or without a port.
func addressOf(s string) (netip.Addr, bool) {
	if at, err := netip.ParseAddrPort(s); err == nil {
		return at.Addr().Unmap(), true
	}
	ip, err := netip.ParseAddr(strings.Trim(s, "[]"))
	return ip.Unmap(), err == nil
}
