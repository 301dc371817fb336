package search

import (
	"strings"
	"unicode"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// query is a search in terms of the database.
type query struct {
	conds []string
	args  []any
	desc  bool
	size  int
	after []any // timestamp, seq, id; nil: from the beginning
}

// where is the condition of the query on the documents of some indices.
func (q *query) where(in []index) (string, []any) {
	marks := make([]string, len(in))
	args := make([]any, len(in), len(in)+len(q.args))
	for i, x := range in {
		marks[i], args[i] = "?", x.k
	}
	conds := append([]string{"k IN (" + strings.Join(marks, ",") + ")"}, q.conds...)
	return strings.Join(conds, " AND "), append(args, q.args...)
}

// page is the statement that reads one page of what matches where.
func (q *query) page(where string, args []any) (string, []any) {
	compare, order := ">", ""
	if q.desc {
		compare, order = "<", " DESC"
	}
	if q.after != nil {
		where += " AND (ts, seq, id) " + compare + " (?, ?, ?)"
		args = append(args, q.after...)
	}
	return "SELECT k, docid, id, ts, seq, source FROM docs WHERE " + where +
		" ORDER BY ts" + order + ", seq" + order + ", id" + order + " LIMIT ?", append(args, q.size)
}

// strict decodes b into v and accepts no member that v does not have.
func strict(b []byte, v any) error {
	if err := json.Unmarshal(b, v, json.RejectUnknownMembers(true)); err != nil {
		return refuse(400, "parsing_exception", "%s", err)
	}
	return nil
}

type searchBody struct {
	Size        *int                  `json:"size"`
	TrackTotal  *bool                 `json:"track_total_hits"`
	Query       jsontext.Value        `json:"query"`
	Sort        []map[string]sortSpec `json:"sort"`
	SearchAfter []jsontext.Value      `json:"search_after"`
}

type sortSpec struct {
	Order    string `json:"order"`
	Unmapped string `json:"unmapped_type"`
}

// maxResult is Elasticsearch's index.max_result_window.
const maxResult = 10_000

// parseSearch reads the body of a _search. Only archive's form is taken: all hits counted,
// sorted by timestamp, seq and id in one direction.
func parseSearch(body []byte) (*query, error) {
	var b searchBody
	if err := strict(body, &b); err != nil {
		return nil, err
	}
	if b.Size == nil || *b.Size < 0 || *b.Size > maxResult {
		return nil, refuse(400, "illegal_argument_exception", "[size] must be given, from 0 to %d", maxResult)
	}
	if b.TrackTotal == nil || !*b.TrackTotal {
		return nil, refuse(400, "illegal_argument_exception", "[track_total_hits] must be true")
	}
	q := &query{size: *b.Size}
	if err := q.sorted(b.Sort); err != nil {
		return nil, err
	}
	if err := q.startAfter(b.SearchAfter); err != nil {
		return nil, err
	}
	return q, q.parse(b.Query, true)
}

// parseCount reads the body of a _count.
func parseCount(body []byte) (*query, error) {
	var b struct {
		Query jsontext.Value `json:"query"`
	}
	if err := strict(body, &b); err != nil {
		return nil, err
	}
	q := &query{}
	return q, q.parse(b.Query, true)
}

func (q *query) sorted(sort []map[string]sortSpec) error {
	fields := [...]struct{ name, typ string }{{"timestamp", "date"}, {"seq", "long"}, {"id", "keyword"}}
	if len(sort) != len(fields) {
		return refuse(400, "illegal_argument_exception", "[sort] must name timestamp, seq and id")
	}
	order := sort[0]["timestamp"].Order
	for i, f := range fields {
		if spec, ok := sort[i][f.name]; !ok || len(sort[i]) != 1 || spec != (sortSpec{order, f.typ}) {
			return refuse(400, "illegal_argument_exception", "[sort] must name timestamp, seq and id in one order")
		}
	}
	if order != "asc" && order != "desc" {
		return refuse(400, "illegal_argument_exception", "unknown sort order [%s]", order)
	}
	q.desc = order == "desc"
	return nil
}

func (q *query) startAfter(values []jsontext.Value) error {
	if values == nil {
		return nil
	}
	var ts, seq int64
	var id string
	if len(values) != 3 || json.Unmarshal(values[0], &ts) != nil || json.Unmarshal(values[1], &seq) != nil || json.Unmarshal(values[2], &id) != nil {
		return refuse(400, "illegal_argument_exception", "search_after must have a value of the right type for each sort field")
	}
	q.after = []any{ts, seq, id}
	return nil
}

// parse adds the condition of one query clause. Only the outermost may be a bool.
func (q *query) parse(b jsontext.Value, outermost bool) error {
	var clause map[string]jsontext.Value
	if err := strict(b, &clause); err != nil {
		return err
	}
	if len(clause) != 1 {
		return refuse(400, "parsing_exception", "a query must have exactly one name")
	}
	for name, body := range clause {
		switch {
		case name == "bool" && outermost:
			return q.all(body)
		case name == "match_all":
			return strict(body, &struct{}{})
		case name == "match_none":
			q.conds = append(q.conds, "0")
			return strict(body, &struct{}{})
		case name == "term":
			return q.term(body)
		case name == "prefix":
			return q.prefix(body)
		case name == "range":
			return q.between(body)
		case name == "simple_query_string":
			return q.text(body)
		}
		return refuse(400, "parsing_exception", "unknown query [%s]", name)
	}
	return nil
}

func (q *query) all(body jsontext.Value) error {
	var b struct {
		Filter []jsontext.Value `json:"filter"`
	}
	if err := strict(body, &b); err != nil {
		return err
	}
	if len(b.Filter) == 0 {
		return refuse(400, "parsing_exception", "[bool] must have a [filter]")
	}
	for _, f := range b.Filter {
		if err := q.parse(f, false); err != nil {
			return err
		}
	}
	return nil
}

func (q *query) term(body jsontext.Value) error {
	var b struct {
		Type   *string `json:"type"`
		UserID *string `json:"userId"`
	}
	if err := strict(body, &b); err != nil {
		return err
	}
	switch {
	case b.Type != nil && b.UserID == nil:
		q.add("type = ?", *b.Type)
	case b.UserID != nil && b.Type == nil:
		q.add("userId = ?", *b.UserID)
	default:
		return refuse(400, "parsing_exception", "[term] must name one field")
	}
	return nil
}

func (q *query) prefix(body jsontext.Value) error {
	var b struct {
		Type *string `json:"type"`
	}
	if err := strict(body, &b); err != nil {
		return err
	}
	if b.Type == nil || *b.Type == "" {
		return refuse(400, "parsing_exception", "[prefix] must name the field [type]")
	}
	q.add("type >= ?", *b.Type)
	q.add("type < ?", *b.Type+string(unicode.MaxRune))
	return nil
}

func (q *query) between(body jsontext.Value) error {
	var b struct {
		Timestamp *struct {
			From *int64 `json:"gte"`
			To   *int64 `json:"lt"`
		} `json:"timestamp"`
	}
	if err := strict(body, &b); err != nil {
		return err
	}
	if b.Timestamp == nil {
		return refuse(400, "parsing_exception", "[range] must name the field [timestamp]")
	}
	if b.Timestamp.From != nil {
		q.add("ts >= ?", *b.Timestamp.From)
	}
	if b.Timestamp.To != nil {
		q.add("ts < ?", *b.Timestamp.To)
	}
	return nil
}

func (q *query) add(cond string, args ...any) {
	q.conds, q.args = append(q.conds, cond), append(q.args, args...)
}

func (q *query) text(body jsontext.Value) error {
	var b struct {
		Query    string   `json:"query"`
		Fields   []string `json:"fields"`
		Operator string   `json:"default_operator"`
		Flags    string   `json:"flags"`
	}
	if err := strict(body, &b); err != nil {
		return err
	}
	if len(b.Fields) != 1 || b.Fields[0] != "spine.text" || b.Operator != "and" || b.Flags != "WHITESPACE|PHRASE|PREFIX|NOT" {
		return refuse(400, "parsing_exception", "[simple_query_string] is known on the field spine.text with operator and, in one form only")
	}
	clauses, err := parseText(b.Query)
	if err != nil {
		return err
	}
	for _, c := range clauses {
		in := "n IN"
		if c.not {
			in = "n NOT IN"
		}
		q.add(in+" (SELECT rowid FROM words WHERE words MATCH ?)", c.match)
	}
	return nil
}

type textClause struct {
	not   bool
	match string // for FTS5
}

// parseText reads words, word*, "phrases of words" and - before them, one space between.
func parseText(s string) ([]textClause, error) {
	bad := refuse(400, "query_shard_exception", "[simple_query_string] takes words, prefixes and phrases of words only")
	var out []textClause
	for more := true; more; {
		var c textClause
		s, c.not = strings.CutPrefix(s, "-")
		var chunk, star string
		if after, quoted := strings.CutPrefix(s, `"`); quoted {
			chunk, s, more = strings.Cut(after, `"`)
			if !more || s != "" && s[0] != ' ' {
				return nil, bad
			}
			s, more = strings.CutPrefix(s, " ")
		} else {
			chunk, s, more = strings.Cut(s, " ")
			var prefix bool
			if chunk, prefix = strings.CutSuffix(chunk, "*"); prefix {
				star = " *"
			}
			if strings.Contains(chunk, " ") {
				return nil, bad
			}
		}
		if chunk == "" || chunk[0] == ' ' || strings.ContainsFunc(chunk, notWord) {
			return nil, bad
		}
		c.match = `"` + chunk + `"` + star
		out = append(out, c)
	}
	return out, nil
}

func notWord(r rune) bool {
	return r != ' ' && (r == unicode.ReplacementChar || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r))
}
