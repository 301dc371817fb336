package search

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	_ "modernc.org/sqlite" // the driver
)

// schema: the words of a document are in the full-text table under the document's number. They
// are cut by package archive, so the tokenizer only has to split at spaces: every letter, mark
// and digit belongs to a word.
const schema = `
CREATE TABLE templates (name TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE indices (k INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, aliases TEXT NOT NULL, mappings TEXT NOT NULL,
	created INTEGER NOT NULL DEFAULT 0);
CREATE TABLE docs (
	n INTEGER PRIMARY KEY, k INTEGER NOT NULL, docid TEXT NOT NULL,
	ts INTEGER NOT NULL, seq INTEGER NOT NULL, id TEXT NOT NULL, type TEXT NOT NULL, userId TEXT,
	source BLOB NOT NULL, UNIQUE (k, docid));
CREATE INDEX docs_order ON docs (ts, seq, id);
CREATE INDEX docs_user ON docs (userId, ts, seq, id);
CREATE VIRTUAL TABLE words USING fts5 (text, content = '', contentless_delete = 1,
	tokenize = "unicode61 remove_diacritics 0 categories 'L* M* N*'");
PRAGMA user_version = 2;`

// schema2 makes a database of version 1 one of version 2. When its indices were made is not known.
const schema2 = `
ALTER TABLE indices ADD COLUMN created INTEGER NOT NULL DEFAULT 0;
PRAGMA user_version = 2;`

// store is the database: one connection that writes, some that read.
type store struct {
	mu    sync.Mutex // held while writing
	write *sql.DB
	read  *sql.DB
}

func openStore(ctx context.Context, path string) (*store, error) {
	open := func(connections int, pragmas ...string) (*sql.DB, error) {
		q := url.Values{"_pragma": append(pragmas, "busy_timeout(5000)")}
		db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+q.Encode())
		if err == nil {
			db.SetMaxOpenConns(connections)
			db.SetMaxIdleConns(connections)
		}
		return db, err
	}
	w, err := open(1, "journal_mode(WAL)", "synchronous(FULL)", "cache_size(-16000)")
	if err != nil {
		return nil, err
	}
	if err := migrate(ctx, w); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	r, err := open(4, "query_only(1)", "cache_size(-8000)")
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return &store{write: w, read: r}, nil
}

func migrate(ctx context.Context, db *sql.DB) error {
	var version int
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	switch version {
	case 0:
		_, err := db.ExecContext(ctx, schema)
		return err
	case 1:
		_, err := db.ExecContext(ctx, schema2)
		return err
	case 2:
		return nil
	}
	return fmt.Errorf("the database is of version %d, made by a newer eventspine", version)
}

func (s *store) close() error { return errors.Join(s.read.Close(), s.write.Close()) }

// change runs fn in a transaction that is on disk when change returns nil.
func (s *store) change(ctx context.Context, fn func(*sql.Tx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// index is one index and what its template gave it.
type index struct {
	k                       int64
	name, aliases, mappings string // aliases: joined and surrounded by commas
	created                 int64  // ms since the Unix epoch; 0: not known
}

// is reports whether a part of an index expression names this index.
func (x *index) is(part string) bool {
	return match(part, x.name) || strings.Contains(x.aliases, ","+part+",")
}

// indices is the indices an expression such as a,b-*.* names. A plain name that is not there
// is an error; a pattern may match none.
func (s *store) indices(ctx context.Context, expression string) (found []index, err error) {
	rows, err := s.read.QueryContext(ctx, "SELECT k, name, aliases, mappings, created FROM indices ORDER BY name")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var all []index
	for rows.Next() {
		var x index
		if err := rows.Scan(&x.k, &x.name, &x.aliases, &x.mappings, &x.created); err != nil {
			return nil, err
		}
		all = append(all, x)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	return selectIndices(all, expression)
}

func selectIndices(all []index, expression string) ([]index, error) {
	taken := make([]bool, len(all))
	for part := range strings.SplitSeq(expression, ",") {
		hit := strings.Contains(part, "*")
		for i := range all {
			if all[i].is(part) {
				taken[i], hit = true, true
			}
		}
		if !hit {
			return nil, refuse(404, "index_not_found_exception", "no such index [%s]", part)
		}
	}
	var found []index
	for i := range all {
		if taken[i] {
			found = append(found, all[i])
		}
	}
	return found, nil
}

// match reports whether name fits pattern, in which * stands for anything.
func match(pattern, name string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == name
	}
	name, ok := strings.CutPrefix(name, first)
	for ok && strings.Contains(rest, "*") {
		var part string
		part, rest, _ = strings.Cut(rest, "*")
		_, name, ok = strings.Cut(name, part)
	}
	return ok && strings.HasSuffix(name, rest)
}

// putTemplate stores an index template. Indices that exist keep what they have.
func (s *store) putTemplate(ctx context.Context, name, body string) error {
	return s.change(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO templates VALUES (?, ?)", name, body)
		return err
	})
}

func (s *store) template(ctx context.Context, name string) (string, error) {
	var body string
	err := s.read.QueryRowContext(ctx, "SELECT body FROM templates WHERE name = ?", name).Scan(&body)
	if errors.Is(err, sql.ErrNoRows) {
		return "", refuse(404, "resource_not_found_exception", "index template matching [%s] not found", name)
	}
	return body, err
}

func (s *store) deleteTemplate(ctx context.Context, name string) error {
	return s.change(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, "DELETE FROM templates WHERE name = ?", name)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n > 0 {
			return err
		}
		return refuse(404, "index_template_missing_exception", "index_template [%s] missing", name)
	})
}

func (s *store) deleteIndices(ctx context.Context, found []index) error {
	return s.change(ctx, func(tx *sql.Tx) error {
		for _, x := range found {
			for _, q := range []string{"DELETE FROM words WHERE rowid IN (SELECT n FROM docs WHERE k = ?)",
				"DELETE FROM docs WHERE k = ?", "DELETE FROM indices WHERE k = ?"} {
				if _, err := tx.ExecContext(ctx, q, x.k); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// document is the source of one document of the indices, nil when there is none.
func (s *store) document(ctx context.Context, in []index, docid string) ([]byte, error) {
	for _, x := range in {
		var source []byte
		err := s.read.QueryRowContext(ctx, "SELECT source FROM docs WHERE k = ? AND docid = ?", x.k, docid).Scan(&source)
		if !errors.Is(err, sql.ErrNoRows) {
			return source, err
		}
	}
	return nil, nil
}

func (s *store) deleteDocument(ctx context.Context, in []index, docid string) (deleted bool, err error) {
	err = s.change(ctx, func(tx *sql.Tx) error {
		for _, x := range in {
			if _, err := tx.ExecContext(ctx, "DELETE FROM words WHERE rowid IN (SELECT n FROM docs WHERE k = ? AND docid = ?)", x.k, docid); err != nil {
				return err
			}
			res, err := tx.ExecContext(ctx, "DELETE FROM docs WHERE k = ? AND docid = ?", x.k, docid)
			if err != nil {
				return err
			}
			n, err := res.RowsAffected()
			if deleted = deleted || n > 0; err != nil {
				return err
			}
		}
		return nil
	})
	return deleted, err
}

// outcome is what became of one document of a bulk request: 201 created, 409 there already.
type outcome struct {
	status int
	err    *refusal
}

// bulk stores the operations in one transaction, an outcome for each. Operations that were
// refused before keep their outcome.
func (s *store) bulk(ctx context.Context, ops []operation) error {
	return s.change(ctx, func(tx *sql.Tx) error {
		w := bulkWriter{tx: tx, keys: map[string]int64{}}
		if err := w.prepare(ctx); err != nil {
			return err
		}
		for i := range ops {
			if ops[i].status != 0 {
				continue
			}
			if err := w.put(ctx, &ops[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

type bulkWriter struct {
	tx         *sql.Tx
	keys       map[string]int64 // of the indices used so far
	doc, words *sql.Stmt        // closed with the transaction
}

func (w *bulkWriter) prepare(ctx context.Context) (err error) {
	w.doc, err = w.tx.PrepareContext(ctx, `INSERT INTO docs (k, docid, ts, seq, id, type, userId, source)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`)
	if err == nil {
		w.words, err = w.tx.PrepareContext(ctx, "INSERT INTO words (rowid, text) VALUES (?, ?)")
	}
	return err
}

func (w *bulkWriter) put(ctx context.Context, op *operation) error {
	k, err := w.key(ctx, op.index)
	if err != nil {
		return err
	}
	d := &op.doc
	res, err := w.doc.ExecContext(ctx, k, op.id, d.timestamp, d.seq, d.id, d.typ, d.userID, op.source)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		op.status = 409
		op.err = refuse(409, "version_conflict_engine_exception", "[%s]: version conflict, document already exists", op.id)
		return err
	}
	op.status = 201
	n, err := res.LastInsertId()
	if err == nil && len(d.text) > 0 {
		_, err = w.words.ExecContext(ctx, n, string(d.text))
	}
	return err
}

// key is the number of an index, which is made by the fitting template where it is missing.
func (w *bulkWriter) key(ctx context.Context, name string) (int64, error) {
	if k, ok := w.keys[name]; ok {
		return k, nil
	}
	var k int64
	err := w.tx.QueryRowContext(ctx, "SELECT k FROM indices WHERE name = ?", name).Scan(&k)
	if errors.Is(err, sql.ErrNoRows) {
		k, err = w.create(ctx, name)
	}
	w.keys[name] = k
	return k, err
}

func (w *bulkWriter) create(ctx context.Context, name string) (k int64, err error) {
	rows, err := w.tx.QueryContext(ctx, "SELECT body FROM templates")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	best := template{Priority: -1}
	for rows.Next() {
		var body string
		if err := rows.Scan(&body); err != nil {
			return 0, err
		}
		if t, err := parseTemplate([]byte(body)); err == nil && t.fits(name) && t.Priority > best.Priority {
			best = t
		}
	}
	if err := rows.Err(); err != nil {
		return 0, err
	}
	res, err := w.tx.ExecContext(ctx, "INSERT INTO indices (name, aliases, mappings, created) VALUES (?, ?, ?, ?)",
		name, best.aliases(), best.mappings(), time.Now().UnixMilli())
	if err != nil {
		return 0, err
	}
	return res.LastInsertId()
}

// hit is one document found.
type hit struct {
	index, docid, id string
	ts, seq          int64
	source           []byte
}

// search returns how many documents of the indices match, and the first of them.
func (s *store) search(ctx context.Context, in []index, q *query) (total int64, hits []hit, err error) {
	if len(in) == 0 {
		return 0, nil, nil
	}
	tx, err := s.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true}) // total and hits of one moment
	if err != nil {
		return 0, nil, err
	}
	defer func() { err = errors.Join(err, tx.Rollback()) }()
	where, args := q.where(in)
	if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM docs WHERE "+where, args...).Scan(&total); err != nil {
		return 0, nil, err
	}
	if q.size == 0 {
		return total, nil, nil
	}
	page, args := q.page(where, args)
	rows, err := tx.QueryContext(ctx, page, args...)
	if err != nil {
		return 0, nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	names := map[int64]string{}
	for _, x := range in {
		names[x.k] = x.name
	}
	for rows.Next() {
		var h hit
		var k int64
		if err := rows.Scan(&k, &h.docid, &h.id, &h.ts, &h.seq, &h.source); err != nil {
			return 0, nil, err
		}
		h.index = names[k]
		hits = append(hits, h)
	}
	return total, hits, rows.Err()
}
