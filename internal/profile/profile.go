// Package profile keeps the metadata of users, which enrichment adds to their events: one
// Redis hash a user, one field a top-level member.
package profile

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/redis/go-redis/v9"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/rdb"
)

// MaxBytes bounds one user's metadata, as JSON.
const MaxBytes = 16 << 10

// empty is the field of a user whose metadata is {}: Redis has no empty hashes. It is not
// UTF-8, so no member has this name.
const empty = "\xff"

// Store keeps user metadata in Redis. It is safe for concurrent use.
type Store struct{ client redis.UniversalClient }

// New makes a Store over client, which stays the caller's to close.
func New(client redis.UniversalClient) *Store { return &Store{client} }

// Put replaces the user's metadata as a whole: a reader sees all of the old or all of the
// new. Invalid: the id has not 1 to 128 bytes of UTF-8, or meta is not a JSON object.
// TooLarge: meta has more than MaxBytes. Otherwise the errors of rdb.Classify.
func (s *Store) Put(ctx context.Context, userID string, meta json.RawMessage) error {
	const op = "put user"
	key, err := keyOf(op, userID)
	if err != nil {
		return err
	}
	fields, err := split(op, meta)
	if err != nil {
		return err
	}
	cmds, err := s.client.TxPipelined(ctx, func(tx redis.Pipeliner) error {
		tx.Del(ctx, key)
		tx.HSet(ctx, key, fields...)
		return nil
	})
	return rdb.Classify(op, cause(cmds, err))
}

// cause is why Redis discarded the transaction, such as a lack of memory: the error of the
// command it refused.
func cause(cmds []redis.Cmder, err error) error {
	if !redis.IsExecAbortError(err) {
		return err
	}
	for _, cmd := range cmds {
		if own := cmd.Err(); own != nil && !redis.IsExecAbortError(own) {
			return own
		}
	}
	return err
}

// Lookup gives the user's metadata as a JSON object, its members sorted by name. NotFound:
// there is none. Corrupt: what Redis holds under the user's key is no metadata.
func (s *Store) Lookup(ctx context.Context, userID string) (json.RawMessage, error) {
	const op = "look up user"
	key, err := keyOf(op, userID)
	if err != nil {
		return nil, err
	}
	hash, err := s.client.HGetAll(ctx, key).Result()
	if err != nil {
		return nil, rdb.Classify(op, err)
	}
	if len(hash) == 0 {
		return nil, fault.Errorf(op, fault.NotFound, "there is no metadata of user %q", userID)
	}
	return join(op, hash)
}

// Delete forgets the user. NotFound: there was nothing to forget.
func (s *Store) Delete(ctx context.Context, userID string) error {
	const op = "delete user"
	key, err := keyOf(op, userID)
	if err != nil {
		return err
	}
	n, err := s.client.Del(ctx, key).Result()
	if err == nil && n == 0 {
		return fault.Errorf(op, fault.NotFound, "there is no metadata of user %q", userID)
	}
	return rdb.Classify(op, err)
}

// LookupMany gives the metadata of those of the users that have some, in one round trip. Ids
// that no user can have, and users whose key holds something else than metadata, are left
// out like those that have none. The values are shared: do not change them.
func (s *Store) LookupMany(ctx context.Context, ids []string) (map[string]json.RawMessage, error) {
	const op = "look up users"
	out := make(map[string]json.RawMessage, len(ids))
	answers := make(map[string]*redis.MapStringStringCmd, len(ids))
	pipe := s.client.Pipeline()
	for _, id := range ids {
		if key, err := keyOf(op, id); err == nil && answers[id] == nil {
			answers[id] = pipe.HGetAll(ctx, key)
		}
	}
	if len(answers) == 0 {
		return out, nil
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	for id, answer := range answers {
		err := rdb.Classify(op, answer.Err())
		if err != nil && fault.KindOf(err) != fault.Corrupt {
			return nil, err
		}
		if hash := answer.Val(); err == nil && len(hash) > 0 {
			if meta, err := join(op, hash); err == nil {
				out[id] = meta
			}
		}
	}
	return out, nil
}

func keyOf(op, userID string) (string, error) {
	if userID == "" || len(userID) > event.MaxUserID || !utf8.ValidString(userID) {
		return "", fault.BadFields(op, fault.Field{Name: "id", Reason: "must have 1 to 128 bytes of UTF-8"})
	}
	return "spine:user:" + userID, nil
}

// split turns metadata into hash fields and values.
func split(op string, meta json.RawMessage) ([]any, error) {
	if len(meta) > MaxBytes {
		return nil, fault.Errorf(op, fault.TooLarge, "the metadata has %d bytes; at most %d are allowed", len(meta), MaxBytes)
	}
	if trimmed := strings.TrimLeft(string(meta), " \t\r\n"); !strings.HasPrefix(trimmed, "{") {
		return nil, fault.Errorf(op, fault.Invalid, "the metadata must be a JSON object")
	}
	var fields []any
	err := event.Members(meta, func(name string, value jsontext.Value) {
		v := value.Clone()
		_ = v.Compact() // Members checked it; a value that stays as it is, is as good
		fields = append(fields, name, []byte(v))
	})
	if err != nil {
		return nil, fault.Errorf(op, fault.Invalid, "the metadata is not valid JSON: %s", strings.TrimPrefix(err.Error(), "jsontext: "))
	}
	if len(fields) == 0 {
		fields = []any{empty, ""}
	}
	return fields, nil
}

// join turns a hash into one JSON object on one line. A value that another program wrote and
// that is no JSON becomes a string.
func join(op string, hash map[string]string) (json.RawMessage, error) {
	names := make([]string, 0, len(hash))
	for name := range hash {
		if utf8.ValidString(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	out := []byte{'{'}
	for i, name := range names {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(event.AppendString(out, name), ':')
		out = appendValue(out, hash[name])
	}
	out = append(out, '}')
	if limit := 2 * MaxBytes; len(out) > limit { // names may need escapes that they came without
		return nil, fault.Errorf(op, fault.Corrupt, "the metadata has %d bytes", len(out))
	}
	return out, nil
}

func appendValue(dst []byte, value string) []byte {
	v := jsontext.Value(value)
	if v.Compact() != nil {
		return event.AppendString(dst, value)
	}
	return append(dst, v...)
}
