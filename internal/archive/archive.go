package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/elastic/elastic-transport-go/v8/elastictransport"
	"github.com/elastic/go-elasticsearch/v8/esapi"

	"eventspine/internal/fault"
)

// Options says where the archive is. The zero value is a server on this machine.
type Options struct {
	URLs     []string      // [http(s)://][user:password@]host:port, one for each node; default http://127.0.0.1:9200
	Index    string        // first part of the index names and the alias of all of them; default events
	Timeout  time.Duration // for one request and its answer; default 30 s
	Refresh  time.Duration // how long until what was indexed is found; default 1 s
	Replicas int           // copies of each index on other nodes; default 0
	MaxBulk  int           // bytes of one bulk request; default and at most 10 MB
	Log      *slog.Logger  // default: none
}

const maxBulk = 10_000_000

// Archive is a client of Elasticsearch. Safe for concurrent use.
type Archive struct {
	o      Options
	client esapi.Transport
	idle   func()
}

// New makes a client; it does not connect. The error is of kind Invalid and names the URL or
// index name that is wrong.
func New(o Options) (*Archive, error) {
	o = withDefaults(o)
	if err := vet(o); err != nil {
		return nil, err
	}
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   5 * time.Second,
		ResponseHeaderTimeout: o.Timeout,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       90 * time.Second,
		ForceAttemptHTTP2:     true,
	}
	urls := make([]*url.URL, len(o.URLs))
	for i, raw := range o.URLs {
		u, err := url.Parse(raw)
		if err != nil { // vet has parsed it before
			return nil, fault.E("open archive", fault.Internal, err)
		}
		urls[i] = u
	}
	client, err := elastictransport.NewClient(
		elastictransport.WithURLs(urls...),
		elastictransport.WithTransport(t),
		elastictransport.WithDisableRetry(), // what may be repeated is decided in this package
	)
	if err != nil {
		return nil, fault.E("ES_HOST", fault.Invalid, err)
	}
	return &Archive{o: o, client: genuine{client}, idle: t.CloseIdleConnections}, nil
}

// genuine is go-elasticsearch's client without its 800 packages of typed requests: esapi above
// Elastic's transport, with the same check of who answers.
type genuine struct{ elastictransport.Interface }

// Perform sends one request. A success that does not come from Elasticsearch is an error.
func (g genuine) Perform(req *http.Request) (*http.Response, error) {
	res, err := g.Interface.Perform(req)
	if err != nil || res.StatusCode > 299 || res.Header.Get("X-Elastic-Product") == "Elasticsearch" {
		return res, err
	}
	return nil, errors.Join(errors.New("the server that answers is not Elasticsearch"), res.Body.Close())
}

func withDefaults(o Options) Options {
	if len(o.URLs) == 0 {
		o.URLs = []string{"127.0.0.1:9200"}
	}
	o.URLs = slices.Clone(o.URLs)
	for i, u := range o.URLs {
		if u = strings.TrimSpace(u); !strings.Contains(u, "://") {
			u = "http://" + u
		}
		o.URLs[i] = u
	}
	if o.Index == "" {
		o.Index = "events"
	}
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Refresh <= 0 {
		o.Refresh = time.Second
	}
	if o.MaxBulk <= 0 || o.MaxBulk > maxBulk {
		o.MaxBulk = maxBulk
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

func vet(o Options) error {
	const op = "ES_HOST"
	for _, raw := range o.URLs {
		u, err := url.Parse(raw)
		if err != nil { // the error text may hold a password
			return fault.Errorf(op, fault.Invalid, "an Elasticsearch URL is malformed")
		}
		if (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
			return fault.Errorf(op, fault.Invalid, "%q is not an Elasticsearch URL such as http://127.0.0.1:9200", u.Redacted())
		}
	}
	if strings.Trim(o.Index, "abcdefghijklmnopqrstuvwxyz0123456789") != "" || len(o.Index) > 64 {
		return fault.Errorf(op, fault.Invalid, "index name %q: give 1 to 64 lower-case letters and digits", o.Index)
	}
	if o.Replicas < 0 {
		return fault.Errorf(op, fault.Invalid, "%d replicas: give 0 or more", o.Replicas)
	}
	return nil
}

// Close ends idle connections. Calls under way are not disturbed.
func (a *Archive) Close() { a.idle() }

// Prepare installs the index templates, by which every day's index gets its mapping and the
// alias, and the index of dead letters its own. It may be called again at any time; existing
// indices keep the mapping they have. Errors are of kind Unavailable or Overloaded while
// Elasticsearch cannot take it.
func (a *Archive) Prepare(ctx context.Context) error {
	for name, body := range map[string]string{a.o.Index: template(a.o), a.dead(): deadTemplate(a.o)} {
		req := esapi.IndicesPutIndexTemplateRequest{Name: name, Body: strings.NewReader(body)}
		if _, err := a.call(ctx, "install index template", req); err != nil {
			return err
		}
	}
	return nil
}

// Prepared reports whether the index template is installed, which it is not on a server that
// lost its data or was replaced.
func (a *Archive) Prepared(ctx context.Context) (bool, error) {
	req := esapi.IndicesGetIndexTemplateRequest{Name: a.o.Index}
	_, err := a.call(ctx, "look for index template", req)
	if fault.KindOf(err) == fault.NotFound {
		return false, nil
	}
	return err == nil, err
}

// Ping asks Elasticsearch who it is. The error is of kind Unavailable while it is away.
func (a *Archive) Ping(ctx context.Context) error {
	_, err := a.call(ctx, "ping elasticsearch", esapi.InfoRequest{})
	return err
}

// Refresh makes everything indexed so far visible to Search and Count. For tests: indices
// refresh themselves.
func (a *Archive) Refresh(ctx context.Context) error {
	req := esapi.IndicesRefreshRequest{Index: []string{a.pattern()}}
	_, err := a.call(ctx, "refresh", req)
	return err
}

// DeleteIndex deletes one index by its exact name. The error is of kind NotFound when there
// is none.
func (a *Archive) DeleteIndex(ctx context.Context, name string) error {
	if strings.ContainsAny(name, "*,?") || name == "" || strings.HasPrefix(name, "_") {
		return fault.Errorf("delete index", fault.Invalid, "%q is not the name of one index", name)
	}
	_, err := a.call(ctx, "delete index", esapi.IndicesDeleteRequest{Index: []string{name}})
	return err
}

// IndexOf is the name of the index that holds the events of t's day, in UTC.
func (a *Archive) IndexOf(t time.Time) string { return a.o.Index + t.UTC().Format("-2006.01.02") }

// pattern matches every day's index, and no other index that begins with the same word.
func (a *Archive) pattern() string { return a.o.Index + "-*.*.*" }

// maxAnswer bounds how much of an answer is read: a page of 1,000 of the largest events, each
// written with all its escapes, stays below it.
const maxAnswer = 1 << 30

// call sends one request and returns the answer's body. Errors are classified by kindOfStatus.
func (a *Archive) call(ctx context.Context, op string, req esapi.Request) ([]byte, error) {
	status, _, body, err := a.exchange(ctx, req)
	if err != nil {
		return nil, fault.E(op, fault.Unavailable, err)
	}
	if status > 299 {
		return nil, fault.E(op, kindOfStatus(status), refusal(status, body))
	}
	return body, nil
}

// exchange returns the answer of any status; err means that none arrived whole.
func (a *Archive) exchange(ctx context.Context, req esapi.Request) (int, http.Header, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, a.o.Timeout)
	defer cancel()
	res, err := req.Do(ctx, a.client)
	if err != nil {
		return 0, nil, nil, err
	}
	if res.Body == nil {
		return res.StatusCode, res.Header, nil, nil
	}
	defer func() { _ = res.Body.Close() }() // everything was read, or the read's error is returned
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err == nil && len(body) > maxAnswer {
		err = errors.New("the answer is too long")
	}
	return res.StatusCode, res.Header, body, err
}

// kindOfStatus is what an HTTP status that is not 2xx means for a request as a whole.
func kindOfStatus(status int) fault.Kind {
	switch status {
	case http.StatusBadRequest:
		return fault.Invalid
	case http.StatusNotFound:
		return fault.NotFound
	case http.StatusRequestEntityTooLarge:
		return fault.TooLarge
	case http.StatusTooManyRequests:
		return fault.Overloaded
	}
	return fault.Unavailable // 5xx, and 401, 403 or 3xx: an operator has to act, the data is not to blame
}

type cause struct {
	Type     string `json:"type"`
	Reason   string `json:"reason"`
	CausedBy *cause `json:"caused_by"`
}

func (c *cause) String() string {
	s := c.Type + ": " + c.Reason
	if c.CausedBy != nil && c.CausedBy.Reason != "" && c.CausedBy.Reason != c.Reason {
		s += " (" + c.CausedBy.Reason + ")"
	}
	return clip(s, 500)
}

// refused is an answer that is no success.
type refused struct {
	status int
	reason string
}

func (r *refused) Error() string { return fmt.Sprintf("status %d: %s", r.status, r.reason) }

// refusal is the reason in an error answer of Elasticsearch, or of a proxy before it.
func refusal(status int, body []byte) error {
	var answer struct {
		Error struct {
			cause
			RootCause []cause `json:"root_cause"`
		} `json:"error"`
	}
	if err := json.Unmarshal(body, &answer); err == nil && answer.Error.Type != "" {
		c := &answer.Error.cause
		if roots := answer.Error.RootCause; len(roots) > 0 && roots[0].Reason != "" {
			c = &roots[0]
		}
		return &refused{status, c.String()}
	}
	return &refused{status, clip(strings.ToValidUTF8(string(body), "�"), 200)}
}

// clip shortens s to about limit bytes: what matters stands at its ends.
func clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit/2], "") + " … " + strings.ToValidUTF8(s[len(s)-limit/2:], "")
}
