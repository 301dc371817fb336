package event

import (
	"strings"
	"testing"

	"eventspine/internal/fault"
)

const cloudHead = `{"specversion":"1.0","id":"e1","source":"/shop","type":"order.created"`

func TestParseCloudEvent(t *testing.T) {
	for name, c := range map[string]struct{ raw, want string }{
		"only what is required": {cloudHead + `}`, cloudHead + `}`},
		"subject is the user":   {cloudHead + `,"subject":"42"}`, cloudHead + `,"userId":"42"}`},
		"time":                  {cloudHead + `,"time":"2015-11-20T12:00:00.5Z"}`, cloudHead + `,"timestamp":1448020800500}`},
		"time with an offset":   {cloudHead + `,"time":"2015-11-20T13:00:00+01:00"}`, cloudHead + `,"timestamp":1448020800000}`},
		"time in small letters": {cloudHead + `,"time":"2015-11-20t12:00:00z"}`, cloudHead + `,"timestamp":1448020800000}`},
		"data":                  {cloudHead + `,"data":{"a":[1.50, "x"]}}`, cloudHead + `,"data":{"a":[1.50, "x"]}}`},
		"data is null":          {cloudHead + `,"data":null}`, cloudHead + `,"data":null}`},
		"data on lines":         {cloudHead + ",\n\"data\": {\n\"a\": 1}}", cloudHead + `,"data":{"a":1}}`},
		"data in base64":        {cloudHead + `,"data_base64":"AAEC"}`, cloudHead + `,"data_base64":"AAEC"}`},
		"other attributes":      {cloudHead + `,"datacontenttype":"application/json; charset=utf-8","dataschema":"https://x.org/s"}`, cloudHead + `,"datacontenttype":"application/json; charset=utf-8","dataschema":"https://x.org/s"}`},
		"extensions":            {cloudHead + `,"ext1":"x","2ext":-2147483648,"flag":true}`, cloudHead + `,"ext1":"x","2ext":-2147483648,"flag":true}`},
		"null is absent":        {cloudHead + `,"subject":null,"time":null,"ext":null}`, cloudHead + `}`},
		"null comes first":      {`{"time":null,` + cloudHead[1:] + `}`, cloudHead + `}`},
		"escaped names":         {`{"s\u0075bject":"42",` + cloudHead[1:] + `}`, `{"userId":"42",` + cloudHead[1:] + `}`},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := ParseCloudEvent([]byte(c.raw))
			if err != nil {
				t.Fatal(err)
			}
			if string(e.Raw) != c.want {
				t.Errorf("raw is\n%s, want\n%s", e.Raw, c.want)
			}
			again, err := Parse(e.Raw)
			if err != nil || !same(e, again) {
				t.Errorf("it reads as %+v, %v, not as %+v", again, err, e)
			}
			if e.ID != "e1" || e.Source != "/shop" || e.Type != "order.created" {
				t.Errorf("got %+v", e)
			}
		})
	}
}

func TestParseCloudEventNamesEveryViolation(t *testing.T) {
	with := func(members string) string { return cloudHead + "," + members + "}" }
	without := func(name string) string {
		all := map[string]string{"specversion": `"1.0"`, "id": `"1"`, "source": `"s"`, "type": `"a"`}
		var members []string
		for n, v := range all {
			if n != name {
				members = append(members, `"`+n+`":`+v)
			}
		}
		return "{" + strings.Join(members, ",") + "}"
	}
	for name, c := range map[string]struct{ raw, fields string }{
		"nothing at all":              {`{}`, "specversion id source type"},
		"no specversion":              {without("specversion"), "specversion"},
		"no id":                       {without("id"), "id"},
		"no source":                   {without("source"), "source"},
		"no type":                     {without("type"), "type"},
		"null id":                     {strings.Replace(cloudHead, `"e1"`, `null`, 1) + "}", "id"},
		"version 0.3":                 {strings.Replace(cloudHead, `1.0`, `0.3`, 1) + "}", "specversion"},
		"version as a number":         {strings.Replace(cloudHead, `"1.0"`, `1.0`, 1) + "}", "specversion"},
		"empty id":                    {strings.Replace(cloudHead, `e1`, ``, 1) + "}", "id"},
		"source is no URI":            {strings.Replace(cloudHead, `/shop`, `%zz`, 1) + "}", "source"},
		"empty source":                {strings.Replace(cloudHead, `/shop`, ``, 1) + "}", "source"},
		"type with a slash":           {strings.Replace(cloudHead, `order.created`, `order/created`, 1) + "}", "type"},
		"empty subject":               {with(`"subject":""`), "subject"},
		"subject too long":            {with(`"subject":"` + strings.Repeat("u", 129) + `"`), "subject"},
		"subject is a number":         {with(`"subject":42`), "subject"},
		"time is no time":             {with(`"time":"yesterday"`), "time"},
		"time without a zone":         {with(`"time":"2015-11-20T12:00:00"`), "time"},
		"time before 1970":            {with(`"time":"1969-12-31T23:59:59Z"`), "time"},
		"time is a number":            {with(`"time":1448000000000`), "time"},
		"datacontenttype":             {with(`"datacontenttype":"a b"`), "datacontenttype"},
		"relative dataschema":         {with(`"dataschema":"/s"`), "dataschema"},
		"base64 that is none":         {with(`"data_base64":"%"`), "data_base64"},
		"base64 is a number":          {with(`"data_base64":1`), "data_base64"},
		"data twice":                  {with(`"data":1,"data_base64":"AAEC"`), "data_base64"},
		"capital in a name":           {with(`"userId":"42"`), "userId"},
		"underscore in a name":        {with(`"my_ext":"x"`), "my_ext"},
		"empty name":                  {with(`"":"x"`), ""},
		"extension is an object":      {with(`"ext":{}`), "ext"},
		"extension is an array":       {with(`"ext":[]`), "ext"},
		"extension is a fraction":     {with(`"ext":1.5`), "ext"},
		"extension is a large number": {with(`"ext":2147483648`), "ext"},
		"eventspine's own names":      {with(`"timestamp":1,"seq":1,"user":"x","epoch":2`), "timestamp seq user epoch"},
		"several at once":             {`{"specversion":"2","id":"","type":7,"time":"x","ext":[]}`, "specversion id type time ext source"},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := ParseCloudEvent([]byte(c.raw))
			if fault.KindOf(err) != fault.Invalid || err == nil || e.Raw != nil {
				t.Fatalf("got %+v, %v", e, err)
			}
			if got := fieldNames(err); got != c.fields {
				t.Errorf("named %q, want %q (%v)", got, c.fields, err)
			}
		})
	}
}

func TestParseCloudEventRefusesWhatIsNone(t *testing.T) {
	for name, raw := range map[string]string{
		"empty": "", "array": "[]", "cut off": cloudHead, "name twice": cloudHead + `,"id":"2"}`, "more after it": cloudHead + "}1",
	} {
		if _, err := ParseCloudEvent([]byte(raw)); fault.KindOf(err) != fault.Invalid || err == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	large := cloudHead + `,"data":"` + strings.Repeat("x", MaxBytes) + `"}`
	if _, err := ParseCloudEvent([]byte(large)); fault.KindOf(err) != fault.TooLarge {
		t.Errorf("large: %v", err)
	}
}
