package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"eventspine/internal/auth"
	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/ingest"
)

const cloudEvent = `{"specversion":"1.0","id":"c1","source":"/shop","type":"order.created","subject":"42","time":"2015-11-20T12:00:00Z","data":{"a":1},"ext":"x"}`

func TestPostEventAccepts(t *testing.T) {
	for name, c := range map[string]struct {
		q    request
		want string // the event's JSON; ID, NOW and the like stand for what the server chose
	}{
		"complete event, scope emit":        {request{scopes: "emit", body: `{"id":"e1","type":"a","userId":"7","timestamp":5,"source":"s"}`}, `{"id":"e1","type":"a","userId":"7","timestamp":5,"source":"s"}`},
		"own event":                         {request{body: `{"id":"e1","type":"a","userId":"42","timestamp":5,"source":"s"}`}, `{"id":"e1","type":"a","userId":"42","timestamp":5,"source":"s"}`},
		"no userId is the caller's":         {request{body: `{"id":"e1","type":"a","timestamp":5,"source":"s"}`}, `{"id":"e1","type":"a","timestamp":5,"source":"s","userId":"42"}`},
		"no userId with emit stays so":      {request{scopes: "emit", body: `{"id":"e1","type":"a","timestamp":5,"source":"s"}`}, `{"id":"e1","type":"a","timestamp":5,"source":"s"}`},
		"empty userId with emit stays so":   {request{scopes: "emit", body: `{"id":"e1","type":"a","userId":"","timestamp":5,"source":"s"}`}, `{"id":"e1","type":"a","userId":"","timestamp":5,"source":"s"}`},
		"everybody with emit":               {request{scopes: "emit", body: `{"id":"e1","type":"a","userId":"*","timestamp":5,"source":"s"}`}, `{"id":"e1","type":"a","userId":"*","timestamp":5,"source":"s"}`},
		"userId in the data is no userId":   {request{body: `{"id":"e1","type":"a","timestamp":5,"source":"s","data":{"userId":"7"}}`}, `{"id":"e1","type":"a","timestamp":5,"source":"s","data":{"userId":"7"},"userId":"42"}`},
		"source is the api's":               {request{body: `{"id":"e1","type":"a","userId":"42","timestamp":5}`}, `{"id":"e1","type":"a","userId":"42","timestamp":5,"source":"api-1"}`},
		"id of the header":                  {request{body: `{"type":"a","userId":"42","timestamp":5,"source":"s"}`, header: map[string]string{"Idempotency-Key": "k-1"}}, `{"type":"a","userId":"42","timestamp":5,"source":"s","id":"k-1"}`},
		"quoted id of the header":           {request{body: `{"type":"a","timestamp":5,"source":"s"}`, header: map[string]string{"Idempotency-Key": `"k 1"`}}, `{"type":"a","timestamp":5,"source":"s","id":"k 1","userId":"42"}`},
		"same id in both":                   {request{body: `{"id":"k-1","type":"a","userId":"42","timestamp":5,"source":"s"}`, header: map[string]string{"Idempotency-Key": "k-1"}}, `{"id":"k-1","type":"a","userId":"42","timestamp":5,"source":"s"}`},
		"CloudEvent":                        {request{media: typeCloud, body: cloudEvent}, `{"specversion":"1.0","id":"c1","source":"/shop","type":"order.created","userId":"42","timestamp":1448020800000,"data":{"a":1},"ext":"x"}`},
		"CloudEvent with a charset":         {request{media: typeCloud + "; charset=UTF-8", body: cloudEvent}, `{"specversion":"1.0","id":"c1","source":"/shop","type":"order.created","userId":"42","timestamp":1448020800000,"data":{"a":1},"ext":"x"}`},
		"no content type":                   {request{media: "-", body: `{"id":"e1","type":"a","userId":"42","timestamp":5,"source":"s"}`}, `{"id":"e1","type":"a","userId":"42","timestamp":5,"source":"s"}`},
		"no content length":                 {request{chunks: true, body: `{"id":"e1","type":"a","userId":"42","timestamp":5,"source":"s"}`}, `{"id":"e1","type":"a","userId":"42","timestamp":5,"source":"s"}`},
		"numbers keep their digits":         {request{body: `{"id":"e1","type":"a","userId":"42","timestamp":5,"source":"s","n":1.0e+2}`}, `{"id":"e1","type":"a","userId":"42","timestamp":5,"source":"s","n":1.0e+2}`},
		"on several lines":                  {request{body: "{\n\"id\":\"e1\",\"type\":\"a\",\n\"userId\":\"42\",\"timestamp\":5,\"source\":\"s\"}\n"}, `{"id":"e1","type":"a","userId":"42","timestamp":5,"source":"s"}`},
		"bearer in small letters":           {request{token: "-", header: map[string]string{"Authorization": "bearer " + token(t, "42")}, body: `{"id":"e1","type":"a","userId":"42","timestamp":5,"source":"s"}`}, `{"id":"e1","type":"a","userId":"42","timestamp":5,"source":"s"}`},
		"an escape that is not the user id": {request{body: `{"id":"e1","type":"a","timestamp":5,"source":"s","x":"\u0041 userId"}`}, `{"id":"e1","type":"a","timestamp":5,"source":"s","x":"\u0041 userId","userId":"42"}`},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			res := f.do(c.q)
			if res.StatusCode != http.StatusAccepted {
				t.Fatalf("answered %d %s", res.StatusCode, read(t, res))
			}
			if len(f.out.events) != 1 || string(f.out.events[0].Raw) != c.want {
				t.Fatalf("sent %s\nwant %s", f.out, c.want)
			}
			var answer struct{ Status, ID string }
			if err := json.Unmarshal([]byte(read(t, res)), &answer); err != nil || answer.ID != f.out.events[0].ID || answer.Status != "accepted" {
				t.Errorf("answered %+v, %v", answer, err)
			}
			again, err := event.Parse(f.out.events[0].Raw)
			if err != nil || again.UserID != f.out.events[0].UserID || again.ID != f.out.events[0].ID {
				t.Errorf("the worker reads %+v, %v", again, err)
			}
			if n := testutil.ToFloat64(f.api.metrics.accepted); n != 1 {
				t.Errorf("counted %v accepted events", n)
			}
		})
	}
}

func TestPostEventCompletesTheEvent(t *testing.T) {
	f := newFixture(t)
	before := time.Now().UnixMilli()
	if res := f.do(request{body: `{"type":"a.b"}`}); res.StatusCode != http.StatusAccepted {
		t.Fatal(read(t, res))
	}
	e := f.out.events[0]
	if len(e.ID) != 36 || e.Timestamp < before || e.Timestamp > time.Now().UnixMilli() || e.Source != "api-1" || e.UserID != "42" {
		t.Errorf("sent %+v", e)
	}
}

func TestPostEventRefuses(t *testing.T) {
	long := strings.Repeat("x", 129)
	for name, c := range map[string]struct {
		q      request
		status int
		fields string
		slug   string
	}{
		"no type":                         {request{body: `{}`}, 400, "type", "invalid"},
		"several wrong fields":            {request{body: `{"id":1,"type":"a..b","timestamp":-1,"seq":4}`}, 400, "id type timestamp seq", "invalid"},
		"not JSON":                        {request{body: `hello`}, 400, "", "invalid"},
		"cut off":                         {request{body: `{"type":"a"`}, 400, "", "invalid"},
		"empty body":                      {request{}, 400, "", "invalid"},
		"an array":                        {request{body: `[{"type":"a"}]`}, 400, "", "invalid"},
		"a name twice":                    {request{body: `{"type":"a","type":"b"}`}, 400, "", "invalid"},
		"wrong CloudEvent":                {request{media: typeCloud, body: `{"specversion":"0.3","subject":""}`}, 400, "specversion subject id source type", "invalid"},
		"other id in the header":          {request{body: `{"id":"a","type":"a"}`, header: map[string]string{"Idempotency-Key": "b"}}, 400, "id", "invalid"},
		"empty key":                       {request{body: `{"type":"a"}`, header: map[string]string{"Idempotency-Key": `""`}}, 400, "Idempotency-Key", "invalid"},
		"key too long":                    {request{body: `{"type":"a"}`, header: map[string]string{"Idempotency-Key": long}}, 400, "Idempotency-Key", "invalid"},
		"key with a control":              {request{body: `{"type":"a"}`, header: map[string]string{"Idempotency-Key": "a\x01"}}, 400, "Idempotency-Key", "invalid"},
		"key that is not UTF-8":           {request{body: `{"type":"a"}`, header: map[string]string{"Idempotency-Key": "\xff"}}, 400, "Idempotency-Key", "invalid"},
		"no token":                        {request{token: "-", body: `{"type":"a"}`}, 401, "", "unauthorized"},
		"wrong token":                     {request{token: "x.y.z", body: `{"type":"a"}`}, 401, "", "unauthorized"},
		"another scheme":                  {request{token: "-", header: map[string]string{"Authorization": "Basic NDI6NDI="}, body: `{"type":"a"}`}, 401, "", "unauthorized"},
		"another user":                    {request{body: `{"type":"a","userId":"421"}`}, 403, "", "forbidden"},
		"another user's CloudEvent":       {request{media: typeCloud, body: strings.Replace(cloudEvent, `"42"`, `"421"`, 1)}, 403, "", "forbidden"},
		"everybody":                       {request{body: `{"type":"a","userId":"*"}`}, 403, "", "forbidden"},
		"nobody, said so":                 {request{body: `{"type":"a","userId":""}`}, 403, "", "forbidden"},
		"nobody, in escapes":              {request{body: `{"type":"a","user\u0049d":""}`}, 403, "", "forbidden"},
		"admin is not emit":               {request{scopes: "admin", body: `{"type":"a","userId":"421"}`}, 403, "", "forbidden"},
		"too large":                       {request{body: `{"type":"a","x":"` + strings.Repeat("x", event.MaxBytes) + `"}`}, 413, "", "too-large"},
		"too large, length unknown":       {request{chunks: true, body: `{"type":"a","x":"` + strings.Repeat("x", event.MaxBytes) + `"}`}, 413, "", "too-large"},
		"CloudEvent too large":            {request{media: typeCloud, body: strings.Replace(cloudEvent, `"x"`, `"`+strings.Repeat("x", event.MaxBytes)+`"`, 1)}, 413, "", "too-large"},
		"form":                            {request{media: "application/x-www-form-urlencoded", body: `type=a`}, 415, "", "media-type"},
		"lines":                           {request{media: typeLines, body: `{"type":"a"}`}, 415, "", "media-type"},
		"batch of CloudEvents":            {request{media: typeCloudBatch, body: `[]`}, 415, "", "media-type"},
		"no media type":                   {request{media: "json;;", body: `{"type":"a"}`}, 415, "", "media-type"},
		"Latin-1":                         {request{media: "application/json; charset=latin1", body: `{"type":"a"}`}, 415, "", "media-type"},
		"token is checked before all":     {request{token: "-", media: "text/plain", body: `no`}, 401, "", "unauthorized"},
		"type is checked before the user": {request{body: `{"type":"","userId":"7"}`}, 400, "type", "invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			res := f.do(c.q)
			p := problemOf(t, res)
			if res.StatusCode != c.status || fields(p) != c.fields || p.Type != "/docs#problem-"+c.slug {
				t.Errorf("answered %+v", p)
			}
			if f.out.calls != 0 {
				t.Errorf("sent %s", f.out)
			}
			if c.status == 401 {
				return // not an event yet
			}
			if n := testutil.ToFloat64(f.api.metrics.refused.WithLabelValues(c.slug)); n != 1 {
				t.Errorf("counted %v events refused as %s", n, c.slug)
			}
		})
	}
}

func TestPostEventTakesAnEventOfTheLargestSize(t *testing.T) {
	f := newFixture(t)
	frame := `{"type":"a","x":""}`
	body := `{"type":"a","x":"` + strings.Repeat("x", event.MaxBytes-len(frame)) + `"}`
	if res := f.do(request{body: body}); res.StatusCode != http.StatusAccepted {
		t.Fatal(read(t, res))
	}
	if _, err := event.Parse(f.out.events[0].Raw); err != nil {
		t.Errorf("the worker refuses it: %v", err)
	}
}

func TestPostEventNeverWaitsForAFullQueue(t *testing.T) {
	f := newFixture(t)
	f.out.refuse = full()
	res := f.do(request{body: `{"type":"a"}`})
	if p := problemOf(t, res); res.StatusCode != 503 || p.Type != "/docs#problem-overloaded" || res.Header.Get("Retry-After") != "1" {
		t.Errorf("answered %d %+v", res.StatusCode, p)
	}
	if n := testutil.ToFloat64(f.api.metrics.refused.WithLabelValues("overloaded")); n != 1 {
		t.Errorf("counted %v", n)
	}
	f.out.refuse = fault.Errorf("append", fault.Unavailable, "closed")
	if res := f.do(request{body: `{"type":"a"}`}); res.StatusCode != 503 {
		t.Errorf("answered %d", res.StatusCode)
	}
}

func TestAReceiptOnceItIsStored(t *testing.T) {
	stored := make(chan ingest.Receipt, 1)
	for name, c := range map[string]struct {
		path, body string
		receipt    *ingest.Receipt
		status     int
		want       string
	}{
		"stored":        {"/api/events?ack=stored", `{"id":"a","type":"a"}`, &ingest.Receipt{Partition: 3, Seq: 900, Epoch: 800}, 201, `{"status":"stored","id":"a","partition":3,"seq":900,"epoch":800}`},
		"a repeat":      {"/api/events?ack=stored", `{"id":"a","type":"a"}`, &ingest.Receipt{Partition: 3, Seq: 700}, 201, `{"status":"stored","id":"a","partition":3,"seq":700}`},
		"dropped":       {"/api/events?ack=stored", `{"id":"a","type":"a"}`, &ingest.Receipt{Partition: 3}, 201, `{"status":"stored","id":"a","partition":3}`},
		"too late":      {"/api/events?ack=stored", `{"id":"a","type":"a"}`, nil, 202, `{"status":"accepted","id":"a"}`},
		"not asked for": {"/api/events?other=1", `{"id":"a","type":"a"}`, nil, 202, `{"status":"accepted","id":"a"}`},
		"another word":  {"/api/events?ack=always", `{"id":"a","type":"a"}`, nil, 400, ""},
		"twice":         {"/api/events?ack=stored&ack=stored", `{"id":"a","type":"a"}`, nil, 400, ""},
		"a batch":       {"/api/events/batch?ack=stored", `[{"id":"a","type":"a"}]`, &ingest.Receipt{Partition: 3, Seq: 900, Epoch: 800}, 201, `{"accepted":1,"refused":0,"results":[{"index":0,"id":"a","status":201,"partition":3,"seq":900,"epoch":800}]}`},
		"late batch":    {"/api/events/batch?ack=stored", `[{"id":"a","type":"a"}]`, nil, 202, `{"accepted":1,"refused":0,"results":[{"index":0,"id":"a","status":202}]}`},
		"half a batch":  {"/api/events/batch?ack=stored", `[{"id":"a"},{"id":"b","type":"b"}]`, &ingest.Receipt{Partition: 3, Seq: 900, Epoch: 800}, 207, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, func(c *Config) { c.AckTimeout = 20 * time.Millisecond })
			f.out.stored = stored
			if c.receipt != nil {
				stored <- *c.receipt
			}
			res := f.do(request{path: c.path, body: c.body})
			if body := read(t, res); res.StatusCode != c.status || c.want != "" && body != c.want {
				t.Errorf("answered %d %s", res.StatusCode, body)
			}
			if kept := len(f.out.events); (kept == 1) != (c.status < 300) {
				t.Errorf("%d events were kept", kept)
			}
		})
	}
	f := newFixture(t, func(c *Config) { c.AckTimeout = 20 * time.Millisecond })
	f.out.stored = stored
	for body, want := range map[string]string{
		`[{"id":"a"},{"id":"b","type":"b"}]`:            `},{"index":1,"id":"b","status":201,"partition":3,"seq":900,"epoch":800}]}`,
		`[{"id":"a","type":"a"},{"id":"b","type":"b"}]`: `{"accepted":2,"refused":0,"results":[{"index":0,"id":"a","status":201,"partition":3,"seq":900,"epoch":800},{"index":1,"id":"b","status":202}]}`,
	} {
		stored <- ingest.Receipt{Partition: 3, Seq: 900, Epoch: 800}
		if got := read(t, f.do(request{path: "/api/events/batch?ack=stored", body: body})); !strings.HasSuffix(got, want) {
			t.Errorf("%s: answered %s", body, got)
		}
	}
	f = newFixture(t)
	f.out.stored = stored
	stored <- ingest.Receipt{Partition: 1, Seq: 5, Epoch: 2}
	res := f.do(request{path: "/api/orders?ack=stored", body: `{"amount":1}`, header: map[string]string{"Idempotency-Key": "k"}})
	if body := read(t, res); res.StatusCode != 201 || body != `{"status":"stored","id":"k","orderId":"k","partition":1,"seq":5,"epoch":2}` {
		t.Errorf("answered %d %s", res.StatusCode, body)
	}
}

func TestABodyThatEndsEarlyIsRefused(t *testing.T) {
	f := newFixture(t)
	for _, length := range []int64{100, -1} {
		r := httptest.NewRequest(http.MethodPost, "/api/events", iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader(`{"type":"a"}`))))
		r.ContentLength = length
		r.Header.Set("Authorization", "Bearer "+token(t, "42"))
		rec := httptest.NewRecorder()
		f.api.ServeHTTP(rec, r)
		f.checkHeaders(rec)
		if rec.Code != 400 || f.out.calls != 0 {
			t.Errorf("answered %d %s", rec.Code, rec.Body)
		}
	}
}

func TestTwoIdempotencyKeysAreRefused(t *testing.T) {
	f := newFixture(t)
	r := httptest.NewRequest(http.MethodPost, "/api/events", strings.NewReader(`{"type":"a"}`))
	r.Header.Set("Authorization", "Bearer "+token(t, "42"))
	r.Header["Idempotency-Key"] = []string{"a", "b"}
	rec := httptest.NewRecorder()
	f.api.ServeHTTP(rec, r)
	if rec.Code != 400 || !strings.Contains(rec.Body.String(), "more than once") {
		t.Errorf("answered %d %s", rec.Code, rec.Body)
	}
}

func TestAnExpiredTokenIsToldSo(t *testing.T) {
	old, err := auth.Sign(secret, auth.Claims{Subject: "42", TTL: -time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	res := newFixture(t).do(request{token: old, body: `{"type":"a"}`})
	if p := problemOf(t, res); p.Detail != "the token has expired" {
		t.Errorf("answered %+v", p)
	}
	if h := res.Header.Get("WWW-Authenticate"); h != `Bearer realm="eventspine", error="invalid_token", error_description="the token has expired"` {
		t.Errorf("challenge is %s", h)
	}
}

func TestOrders(t *testing.T) {
	f := newFixture(t)
	res := f.do(request{path: "/api/orders", body: ` {"amount":99.90,"items":[{"sku":"a","quantity":2,"price":0}],"note":"x"} `})
	if res.StatusCode != http.StatusAccepted {
		t.Fatal(read(t, res))
	}
	var answer struct{ Status, ID, OrderID string }
	if err := json.Unmarshal([]byte(read(t, res)), &answer); err != nil {
		t.Fatal(err)
	}
	e := f.out.events[0]
	if e.Type != "order.created" || e.UserID != "42" || e.ID != answer.ID || answer.OrderID != answer.ID || e.Source != "api-1" {
		t.Errorf("answered %+v, sent %+v", answer, e)
	}
	if want := `"data":{"amount":99.90,"items":[{"sku":"a","quantity":2,"price":0}],"note":"x","orderId":"` + answer.ID + `"}}`; !strings.HasSuffix(string(e.Raw), want) {
		t.Errorf("sent %s", e.Raw)
	}
}

func TestAnOrderThatIsSentAgainKeepsItsID(t *testing.T) {
	f := newFixture(t)
	for range 2 {
		q := request{path: "/api/orders", body: "{\n\"amount\": 1\n}", header: map[string]string{"Idempotency-Key": "order-7"}}
		if got := read(t, f.do(q)); got != `{"status":"accepted","id":"order-7","orderId":"order-7"}` {
			t.Errorf("answered %s", got)
		}
	}
	for _, e := range f.out.events {
		if e.ID != "order-7" || strings.Contains(string(e.Raw), "\n") {
			t.Errorf("sent %s", e.Raw)
		}
	}
}

func TestOrdersRefuse(t *testing.T) {
	for name, c := range map[string]struct {
		q      request
		status int
		fields string
	}{
		"no amount":         {request{body: `{}`}, 400, "amount"},
		"amount is text":    {request{body: `{"amount":"5"}`}, 400, "amount"},
		"amount is 0":       {request{body: `{"amount":0}`}, 400, "amount"},
		"amount is below 0": {request{body: `{"amount":-1}`}, 400, "amount"},
		"amount is huge":    {request{body: `{"amount":1e400}`}, 400, "amount"},
		"all wrong": {request{body: `{"amount":null,"currency":"euro","orderId":"1","items":{}}`}, 400,
			"amount currency orderId items"},
		"currency is a number": {request{body: `{"amount":1,"currency":978}`}, 400, "currency"},
		"items is null":        {request{body: `{"amount":1,"items":null}`}, 400, "items"},
		"wrong items":          {request{body: `{"amount":1,"items":[1,{"quantity":0,"price":-1},{"quantity":1.5,"price":"x"}]}`}, 400, "items[0] items[1].quantity items[1].price items[2].quantity items[2].price"},
		"too many items":       {request{body: `{"amount":1,"items":[` + strings.Repeat("{},", 1000) + `{}]}`}, 400, "items"},
		"not an object":        {request{body: `[1]`}, 400, ""},
		"not JSON":             {request{body: `{"amount":}`}, 400, ""},
		"a name twice inside":  {request{body: `{"amount":1,"x":{"a":1,"a":2}}`}, 400, ""},
		"empty":                {request{}, 400, ""},
		"no token":             {request{token: "-", body: `{"amount":1}`}, 401, ""},
		"too large":            {request{body: `{"amount":1,"x":"` + strings.Repeat("x", event.MaxBytes) + `"}`}, 413, ""},
		"CloudEvent":           {request{media: typeCloud, body: cloudEvent}, 415, ""},
		"text":                 {request{media: "text/plain; charset", body: `5`}, 415, ""},
		"bad key":              {request{body: `{"amount":1}`, header: map[string]string{"Idempotency-Key": " "}}, 400, "Idempotency-Key"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			c.q.path = "/api/orders"
			res := f.do(c.q)
			if p := problemOf(t, res); res.StatusCode != c.status || fields(p) != c.fields {
				t.Errorf("answered %+v", p)
			}
			if f.out.calls != 0 {
				t.Errorf("sent %s", f.out)
			}
		})
	}
	f := newFixture(t)
	f.out.refuse = full()
	if res := f.do(request{path: "/api/orders", body: `{"amount":1}`}); res.StatusCode != 503 {
		t.Errorf("answered %d with a full queue", res.StatusCode)
	}
}

func TestDescribeMapsEveryKind(t *testing.T) {
	for kind, status := range map[fault.Kind]int{
		fault.Internal: 500, fault.Invalid: 400, fault.Unauthorized: 401, fault.Forbidden: 403, fault.NotFound: 404,
		fault.Conflict: 409, fault.TooLarge: 413, fault.Overloaded: 503, fault.Unavailable: 503, fault.Corrupt: 500,
	} {
		_, p := describe(fault.E("outer", kind, fault.Errorf("inner", fault.Internal, "dial 10.0.1.20")))
		if p.Status != status || p.Detail == "" || strings.Contains(p.Detail, "inner:") {
			t.Errorf("%v became %+v", kind, p)
		}
		if status >= 500 && strings.Contains(p.Detail, "10.0.1.20") {
			t.Errorf("%v shows an address: %+v", kind, p)
		}
	}
	if _, p := describe(errors.New("anything")); p.Status != 500 {
		t.Errorf("an unknown error became %+v", p)
	}
}

func BenchmarkPostEvent(b *testing.B) {
	f := newFixture(b)
	f.api.log = silent()
	f.api.send = nowhere{}
	body := `{"id":"0190d5a0-0000-7000-8000-000000000000","type":"notification.order","userId":"42","timestamp":1448000000000,"data":{"text":"` + strings.Repeat("x", 250) + `"}}`
	bearer := "Bearer " + token(b, "42", "emit")
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest(http.MethodPost, "/api/events", strings.NewReader(body))
		r.Header.Set("Authorization", bearer)
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		f.api.ServeHTTP(w, r)
		if w.Code != http.StatusAccepted {
			b.Fatal(w.Body)
		}
	}
}
