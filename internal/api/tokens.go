package api

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"eventspine/internal/auth"
	"eventspine/internal/event"
	"eventspine/internal/fault"
)

const maxRevocation = 4 << 10 // bytes of a request; ids may be full of escapes

// revokeTokens takes back one token, or all that a user was given until now.
func (a *api) revokeTokens(w http.ResponseWriter, r *http.Request, who auth.Identity) error {
	if !who.Has(auth.ScopeAdmin) {
		return needScope(auth.ScopeAdmin, "Tokens are revoked with a token that has the scope admin.")
	}
	if media, err := mediaType(r); err != nil {
		return err
	} else if media != typeJSON {
		return refuse(badMedia, "Send "+typeJSON+".")
	}
	body, err := readBody(w, r, maxRevocation)
	if err != nil {
		return err
	}
	jti, user, err := parseRevocation(bytes.TrimSpace(body))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	var until time.Time
	if jti != "" {
		until, err = a.revoker.Token(ctx, jti)
	} else {
		until, err = a.revoker.User(ctx, user)
	}
	if err != nil {
		return err
	}
	a.log.Info("tokens were revoked", "request", requestID(w), "by", who.Subject, "single", jti != "")
	writeJSON(w, http.StatusOK, fmt.Appendf(nil, `{"until":%d}`, until.UnixMilli()))
	return nil
}

// parseRevocation reads {"jti":…} or {"user":…}; one of the two is not empty then.
func parseRevocation(body []byte) (jti, user string, err error) {
	const op = "read revocation"
	var wrong []fault.Field
	text := func(name string, v jsontext.Value, limit int) string {
		s, err := jsontext.AppendUnquote(nil, v)
		if v.Kind() != '"' || err != nil || len(s) == 0 || len(s) > limit {
			wrong = append(wrong, fault.Field{Name: name, Reason: fmt.Sprintf("must be text of 1 to %d bytes", limit)})
		}
		return string(s)
	}
	named := 0
	if len(body) == 0 || body[0] != '{' || event.Members(body, func(name string, v jsontext.Value) {
		switch name {
		case "jti":
			jti = text(name, v, auth.MaxID)
			named++
		case "user":
			user = text(name, v, auth.MaxSubject)
			named++
		default:
			wrong = append(wrong, fault.Field{Name: name, Reason: "is not known; give jti or user"})
		}
	}) != nil {
		return "", "", fault.Errorf(op, fault.Invalid, "The body must be a JSON object without a name twice.")
	}
	if len(wrong) > 0 {
		return "", "", fault.BadFields(op, wrong...)
	}
	if named != 1 {
		return "", "", fault.Errorf(op, fault.Invalid, "Give either jti, the id of one token, or user, whose tokens are all to be revoked.")
	}
	return jti, user, nil
}

// showPresence says whether a user is online.
func (a *api) showPresence(w http.ResponseWriter, r *http.Request, who auth.Identity) error {
	id, err := userOf(r, who)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	s, err := a.presence.Of(ctx, id)
	if err != nil {
		return err
	}
	out := fmt.Appendf(nil, `{"online":%t,"connections":%d`, s.Online(), s.Connections)
	if s.Online() {
		out = fmt.Appendf(out, `,"since":%d`, s.Since.UnixMilli())
	}
	writeJSON(w, http.StatusOK, append(out, '}'))
	return nil
}
