package api

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// poster is one keep-alive connection that speaks the least HTTP it needs.
type poster struct {
	conn    net.Conn
	in      *bufio.Reader
	request []byte
}

func dial(b *testing.B, addr, path, bearer string, body []byte) *poster {
	b.Helper()
	conn, err := (&net.Dialer{}).DialContext(b.Context(), "tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	request := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: a\r\nAuthorization: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", path, bearer, len(body))
	return &poster{conn, bufio.NewReaderSize(conn, 64<<10), append(request, body...)}
}

// post sends the request once and returns the status.
func (p *poster) post() (int, error) {
	if _, err := p.conn.Write(p.request); err != nil {
		return 0, err
	}
	line, err := p.in.ReadSlice('\n')
	if err != nil || len(line) < 12 {
		return 0, fmt.Errorf("%q: %w", line, err)
	}
	chunked := false
	status, length := int(line[9]-'0')*100+int(line[10]-'0')*10+int(line[11]-'0'), 0
	for {
		if line, err = p.in.ReadSlice('\n'); err != nil {
			return 0, err
		}
		if len(line) <= 2 {
			break
		}
		chunked = chunked || bytes.HasPrefix(line, []byte("Transfer-Encoding: chunked"))
		if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(v))); err != nil {
				return 0, err
			}
		}
	}
	if chunked {
		return status, p.chunks()
	}
	_, err = p.in.Discard(length)
	return status, err
}

func (p *poster) chunks() error {
	for {
		line, err := p.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		n, err := strconv.ParseUint(string(bytes.TrimSpace(line)), 16, 31)
		if err != nil {
			return err
		}
		if _, err := p.in.Discard(int(n) + 2); err != nil || n == 0 {
			return err
		}
	}
}

// alone runs an api whose workers are away: all it takes waits on its disk.
func alone(b *testing.B) (addr, bearer string) {
	b.Helper()
	c := anyPort(b)
	c.WALSize, c.MaxBatches = 64<<30, posters
	d, err := Open(b.Context(), c)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, c, d) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	return d.Addr(), "Bearer " + token(b, "42", "emit")
}

const posters = 64

// bare is what an api could do at most: net/http, which reads the body and answers, and no more.
func bare(b *testing.B) (addr, bearer string) {
	b.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", typeJSON)
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, `{"status":"accepted","id":"0190f0f0-0000-7000-8000-000000000000"}`)
	}))
	b.Cleanup(s.Close)
	return s.Listener.Addr().String(), "Bearer " + token(b, "42", "emit")
}

// BenchmarkDurablePosts posts over 64 connections to an api whose workers are away, and, to have
// something to compare with, to a handler that does nothing.
func BenchmarkDurablePosts(b *testing.B) {
	single := []byte(`{"type":"notification.order","userId":"42","data":{"amount":12.5,"text":"` + strings.Repeat("x", 150) + `"}}`)
	for name, c := range map[string]struct {
		path   string
		body   []byte
		events int
		server func(*testing.B) (addr, bearer string)
	}{
		"bare":   {"/api/events", single, 1, bare},
		"single": {"/api/events", single, 1, alone},
		"100":    {"/api/events/batch", append(append([]byte("["), bytes.Repeat(append(single, ','), 99)...), append(single, ']')...), 100, alone},
	} {
		b.Run("events="+name, func(b *testing.B) {
			addr, bearer := c.server(b)
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			b.ResetTimer()
			for range posters {
				p := dial(b, addr, c.path, bearer, c.body)
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if status, err := p.post(); err != nil || status != 202 {
							b.Errorf("%d, %v", status, err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N*c.events)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkPaced posts 2,000 events a second over 64 connections and reports the delays.
func BenchmarkPaced(b *testing.B) {
	addr, bearer := alone(b)
	const rate = 2000
	var mu sync.Mutex
	var took []time.Duration
	var wg sync.WaitGroup
	began := time.Now()
	each := max(b.N/posters, 1)
	b.ResetTimer()
	for i := range posters {
		p := dial(b, addr, "/api/events", bearer, []byte(`{"type":"notification.order","userId":"42","data":{"amount":12.5}}`))
		wg.Go(func() {
			own := make([]time.Duration, 0, each)
			for k := range each {
				due := began.Add(time.Duration(k*posters+i) * time.Second / rate)
				<-time.After(time.Until(due))
				at := time.Now()
				if status, err := p.post(); err != nil || status != 202 {
					b.Errorf("%d, %v", status, err)
					return
				}
				own = append(own, time.Since(at))
			}
			mu.Lock()
			took = append(took, own...)
			mu.Unlock()
		})
	}
	wg.Wait()
	slices.Sort(took)
	at := func(q float64) float64 { return float64(took[int(q*float64(len(took)-1))].Microseconds()) / 1000 }
	b.ReportMetric(at(.5), "p50-ms")
	b.ReportMetric(at(.99), "p99-ms")
}
