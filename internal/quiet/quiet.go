// Package quiet keeps a log readable while something goes wrong a thousand times a second: of
// each kind of line it lets one through per interval and says on it how many it held back, and
// of a dependency that is away it tells the beginning, the changes and the end.
package quiet

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Logger writes at most one line of each message per interval. Messages are constants, so
// there are few of them. Safe for concurrent use; the zero Logger writes nothing.
type Logger struct {
	log   *slog.Logger
	every time.Duration
	mu    sync.Mutex
	lines map[string]*line
}

type line struct {
	last time.Time
	held int
}

// New makes a Logger above log, which may be nil for none.
func New(log *slog.Logger, every time.Duration) *Logger {
	return &Logger{log: log, every: every, lines: map[string]*line{}}
}

// Warn writes the line when none of the same message was written within the interval, with
// the number of lines held back since then as "more". It reports whether it wrote.
func (l *Logger) Warn(message string, args ...any) bool {
	return l.write(slog.LevelWarn, message, args)
}

// Error is Warn at the level of an error.
func (l *Logger) Error(message string, args ...any) bool {
	return l.write(slog.LevelError, message, args)
}

func (l *Logger) write(level slog.Level, message string, args []any) bool {
	if l.log == nil {
		return false
	}
	now := time.Now()
	l.mu.Lock()
	at, known := l.lines[message]
	if !known {
		at = &line{}
		l.lines[message] = at
	}
	if known && now.Sub(at.last) < l.every {
		at.held++
		l.mu.Unlock()
		return false
	}
	held := at.held
	at.last, at.held = now, 0
	l.mu.Unlock()
	if held > 0 {
		args = append(args, "more", held)
	}
	l.log.Log(context.Background(), level, message, args...)
	return true
}
