package api

import (
	"bytes"
	"context"
	"net/http"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-chi/chi/v5"
	"github.com/go-json-experiment/json/jsontext"

	"eventspine/internal/auth"
	"eventspine/internal/event"
	"eventspine/internal/fault"
)

const maxMetadata = 16 << 10 // bytes of one user's metadata

// putUser replaces the metadata that enrichment adds to a user's events.
func (a *api) putUser(w http.ResponseWriter, r *http.Request, who auth.Identity) error {
	id, err := userOf(r, who)
	if err != nil {
		return err
	}
	if media, err := mediaType(r); err != nil {
		return err
	} else if media != typeJSON {
		return refuse(badMedia, "Send "+typeJSON+".")
	}
	body, err := readBody(w, r, maxMetadata)
	if err != nil {
		return err
	}
	body = bytes.TrimSpace(body)
	if len(body) == 0 || body[0] != '{' || event.Members(body, func(string, jsontext.Value) {}) != nil {
		return fault.Errorf("read metadata", fault.Invalid, "The metadata must be a JSON object without a name twice.")
	}
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	if err := a.writers.Put(ctx, id, body); err != nil {
		return err
	}
	a.announce.UserChanged(id)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *api) showUser(w http.ResponseWriter, r *http.Request, who auth.Identity) error {
	id, err := userOf(r, who)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	meta, err := a.readers.Lookup(ctx, id)
	if fault.KindOf(err) == fault.NotFound {
		return fault.Errorf("show user", fault.NotFound, "There is no metadata of this user.")
	}
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, meta)
	return nil
}

// deleteUser removes a user's metadata; it succeeds when there is none, too.
func (a *api) deleteUser(w http.ResponseWriter, r *http.Request, who auth.Identity) error {
	id, err := userOf(r, who)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	if err := a.writers.Delete(ctx, id); err != nil && fault.KindOf(err) != fault.NotFound {
		return err
	}
	a.announce.UserChanged(id)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// userOf is the user id in the path, which must be the caller's own unless it is an admin.
func userOf(r *http.Request, who auth.Identity) (string, error) {
	id := chi.URLParam(r, "id")
	if r.URL.RawPath != "" { // then chi matched the path as it was encoded
		decoded, err := url.PathUnescape(id)
		if err != nil {
			return "", badUser("is not well-formed percent-encoding")
		}
		id = decoded
	}
	switch {
	case id == event.Everybody:
		return "", badUser("must name one user, not everybody")
	case len(id) > event.MaxUserID:
		return "", badUser("must have at most 128 bytes")
	case !utf8.ValidString(id) || strings.ContainsFunc(id, unicode.IsControl):
		return "", badUser("must be UTF-8 without control characters")
	case id != who.Subject && !who.Has(auth.ScopeAdmin):
		return "", needScope(auth.ScopeAdmin, "What belongs to other users needs a token with the scope admin.")
	}
	return id, nil
}

func badUser(reason string) error {
	return fault.BadFields("read path", fault.Field{Name: "id", Reason: reason})
}
