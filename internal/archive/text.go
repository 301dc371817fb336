package archive

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"eventspine/internal/fault"
)

// Full-text search works on words that this file cuts, from documents and from queries alike:
// runs of letters, digits and marks in lower case, Han and Hiragana characters one by one. So
// it does not depend on how a server's analyzer treats the dots in order.created.

const (
	maxWord    = 128     // runes of a word that count; the rest of a longer one is left out
	maxText    = 8 << 10 // bytes of words kept of one event
	maxQuery   = 1 << 10 // bytes of Query.Text
	maxClauses = 64      // words and phrases in Query.Text
)

// appendWords appends the words in s, each after a space unless dst is empty. It stops before
// the word that would make dst longer than limit.
func appendWords(dst []byte, s []byte, limit int) []byte {
	start, runes := len(dst), 0 // of the word being written; runes is 0 between words
	for len(s) > 0 {
		r, n := rune(s[0]), 1
		if r >= utf8.RuneSelf {
			r, n = utf8.DecodeRune(s)
		}
		s = s[n:]
		alone := r >= 0x2E80 && unicode.In(r, unicode.Han, unicode.Hiragana)
		switch {
		case !isWord(r, runes > 0):
			runes = 0
			continue
		case runes == 0 || alone:
			start, runes = len(dst), 0
			if start > 0 {
				dst = append(dst, ' ')
			}
		}
		if runes++; runes <= maxWord {
			dst = utf8.AppendRune(dst, lower(r))
		}
		if len(dst) > limit {
			return dst[:start]
		}
		if alone {
			runes = 0
		}
	}
	return dst
}

func lower(r rune) rune {
	if r < utf8.RuneSelf {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}
	return unicode.ToLower(r)
}

func isWord(r rune, inside bool) bool {
	if r < utf8.RuneSelf {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
	}
	return r != utf8.RuneError && (unicode.IsLetter(r) || unicode.IsDigit(r) || inside && unicode.IsMark(r))
}

// simpleQuery rewrites what a user typed as a simple_query_string of nothing but words,
// phrases, a minus before and a star behind. none means that there is no word in it at all,
// so that nothing can be found. Any input is taken, up to its limits.
func simpleQuery(text string) (query string, none bool, err error) {
	if len(text) > maxQuery {
		return "", false, fault.BadFields("search", fault.Field{Name: "text", Reason: "is too long; at most 1024 bytes are allowed"})
	}
	var clauses []string
	for rest := strings.TrimSpace(text); rest != ""; rest = strings.TrimLeftFunc(rest, unicode.IsSpace) {
		var c clause
		c, rest = nextClause(rest)
		clauses = append(clauses, c.String()...)
	}
	if len(clauses) > maxClauses {
		return "", false, fault.BadFields("search", fault.Field{Name: "text", Reason: "has too many words; at most 64 are allowed"})
	}
	query = strings.Join(clauses, " ")
	return query, query == "", nil
}

type clause struct {
	words       []string
	not, prefix bool
}

// nextClause cuts a phrase in quotes, or what stands before the next space, from s.
func nextClause(s string) (clause, string) {
	var c clause
	if after, ok := strings.CutPrefix(s, "-"); ok {
		c.not, s = true, after
	}
	chunk, rest := s, ""
	if after, ok := strings.CutPrefix(s, `"`); ok {
		chunk, rest, _ = strings.Cut(after, `"`)
	} else {
		if i := strings.IndexFunc(s, unicode.IsSpace); i >= 0 {
			chunk, rest = s[:i], s[i:]
		}
		chunk, c.prefix = strings.CutSuffix(chunk, "*")
	}
	c.words = strings.Fields(string(appendWords(nil, []byte(chunk), maxText)))
	return c, rest
}

// String gives the clauses that stand for c: none where it holds no word. A prefix after
// other words, as in order.cre*, asks for those words and the prefix; excluded, for the phrase.
func (c clause) String() []string {
	n, minus := len(c.words), ""
	if c.not {
		minus = "-"
	}
	switch {
	case n == 0:
		return nil
	case n == 1 && c.prefix:
		return []string{minus + c.words[0] + "*"}
	case n == 1:
		return []string{minus + c.words[0]}
	case c.prefix && !c.not:
		return []string{phrase(c.words[:n-1]), c.words[n-1] + "*"}
	}
	return []string{minus + phrase(c.words)}
}

func phrase(words []string) string { return `"` + strings.Join(words, " ") + `"` }
