package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"eventspine/internal/event"
	"eventspine/internal/fault"
)

const (
	emitBatch      = 200     // events in one request, fewer at low rates
	emitBatchBytes = 1 << 20 // of one request
)

func emitCommand() *cobra.Command {
	var t target
	var e emitter
	var typ, user, id, data string
	c := &cobra.Command{
		Use:   "emit (--type T [--user U] [--data JSON] | --file EVENTS.ndjson)",
		Short: "Send one event, or a file of them",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if (typ == "") == (e.file == "") {
				return usage(errors.New("give either --type or --file"))
			}
			if err := t.fill("dev", "emit", "admin"); err != nil {
				return err
			}
			e.target, e.out, e.notes = &t, c.OutOrStdout(), c.ErrOrStderr()
			if e.file != "" {
				return e.sendFile(c.Context())
			}
			return e.sendOne(c.Context(), typ, user, id, data)
		},
	}
	t.flags(c)
	c.Flags().StringVar(&typ, "type", "", "the event's type, such as notification.hello")
	c.Flags().StringVar(&user, "user", "", "the user it is for; * is everybody; empty: only indexed")
	c.Flags().StringVar(&id, "id", "", "its id; empty: a new one")
	c.Flags().StringVar(&data, "data", "", "its data, any JSON value")
	c.Flags().StringVar(&e.file, "file", "", "a file with one JSON event a line; - is standard input")
	c.Flags().Float64Var(&e.rate, "rate", 0, "events a second; 0: as fast as they are taken")
	return c
}

type emitter struct {
	target *target
	file   string
	rate   float64
	out    io.Writer
	notes  io.Writer

	accepted, refused int
}

func (e *emitter) sendOne(ctx context.Context, typ, user, id, data string) error {
	body := event.AppendString([]byte(`{"type":`), typ)
	for _, member := range [][2]string{{"userId", user}, {"id", id}} {
		if member[1] != "" {
			body = append(event.AppendString(append(body, ','), member[0]), ':')
			body = event.AppendString(body, member[1])
		}
	}
	if data != "" {
		if !json.Valid([]byte(data)) {
			return usage(fmt.Errorf("--data is not JSON: %s", data))
		}
		body = append(append(body, `,"data":`...), data...)
	}
	a, err := e.post(ctx, "/api/events", "application/json", append(body, '}'))
	if err != nil {
		return err
	}
	if a.status/100 != 2 {
		return a.refusal()
	}
	_, err = fmt.Fprintf(e.out, "%s\n", bytes.TrimSpace(a.body))
	return err
}

func (e *emitter) post(ctx context.Context, path, contentType string, body []byte) (*answer, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, e.target.api+path, bytes.NewReader(body))
	if err != nil {
		return nil, usage(err)
	}
	r.Header.Set("Content-Type", contentType)
	return e.target.request(r)
}

// sendFile sends the file in batches. Events that the API cannot take now are sent again when
// it says so; events it refuses are named with their line and counted.
func (e *emitter) sendFile(ctx context.Context) (err error) {
	in := os.Stdin
	size := int64(-1)
	if e.file != "-" {
		if in, err = os.Open(e.file); err != nil {
			return usage(err)
		}
		defer func() { err = errors.Join(err, in.Close()) }()
		if info, err := in.Stat(); err == nil {
			size = info.Size()
		}
	}
	started := time.Now()
	if err := e.sendLines(ctx, in, e.bar(size)); err != nil {
		return err
	}
	took := time.Since(started).Seconds()
	_, err = fmt.Fprintf(e.out, "%d accepted, %d refused in %.1f s (%.0f events/s)\n", e.accepted, e.refused, took, float64(e.accepted)/max(took, 0.001))
	if err == nil && e.refused > 0 {
		err = fault.Errorf("", fault.Invalid, "%d events were refused", e.refused)
	}
	return err
}

func (e *emitter) bar(size int64) *progressbar.ProgressBar {
	return progressbar.NewOptions64(size, progressbar.OptionSetWriter(e.notes), progressbar.OptionShowBytes(true),
		progressbar.OptionSetDescription("events"), progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(), progressbar.OptionFullWidth())
}

// line is one event of the file.
type line struct {
	number int
	text   []byte
}

func (e *emitter) sendLines(ctx context.Context, in io.Reader, bar *progressbar.ProgressBar) error {
	scan := bufio.NewScanner(in)
	scan.Buffer(nil, 2*event.MaxBytes)
	limit := e.batchSize()
	started, sent := time.Now(), 0
	var batch []line
	var bytesIn int
	flush := func() error {
		if err := e.sendBatch(ctx, batch); err != nil {
			return err
		}
		sent += len(batch)
		_ = bar.Add(bytesIn) // only a picture
		batch, bytesIn = batch[:0], 0
		return e.pace(ctx, started, sent)
	}
	for number := 1; scan.Scan(); number++ {
		if len(bytes.TrimSpace(scan.Bytes())) == 0 {
			continue
		}
		batch = append(batch, line{number, bytes.Clone(scan.Bytes())})
		if bytesIn += len(scan.Bytes()) + 1; len(batch) >= limit || bytesIn >= emitBatchBytes {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := scan.Err(); err != nil {
		return usage(fmt.Errorf("%s: %w", e.file, err))
	}
	if len(batch) > 0 {
		if err := flush(); err != nil {
			return err
		}
	}
	return bar.Finish()
}

// batchSize keeps the requests of a paced run at ten a second or more.
func (e *emitter) batchSize() int {
	if e.rate <= 0 {
		return emitBatch
	}
	return min(max(int(e.rate/10), 1), emitBatch)
}

// pace waits until the schedule allows the next event.
func (e *emitter) pace(ctx context.Context, started time.Time, sent int) error {
	if e.rate <= 0 {
		return nil
	}
	due := started.Add(time.Duration(float64(sent) / e.rate * float64(time.Second)))
	return wait(ctx, time.Until(due))
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(max(d, 0))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// sendBatch sends the lines and repeats those that the API had no room for, for as long as it takes.
func (e *emitter) sendBatch(ctx context.Context, batch []line) error {
	for len(batch) > 0 {
		texts := make([][]byte, len(batch))
		for i, l := range batch {
			texts[i] = l.text
		}
		a, err := e.post(ctx, "/api/events/batch", "application/x-ndjson", bytes.Join(texts, []byte("\n")))
		if err != nil {
			return err
		}
		again, err := e.sort(batch, a)
		if err != nil {
			return err
		}
		if batch = again; len(batch) > 0 {
			if err := wait(ctx, retryAfter(a)); err != nil {
				return err
			}
		}
	}
	return nil
}

// sort counts the answers of a batch and returns the lines to send again.
func (e *emitter) sort(batch []line, a *answer) (again []line, err error) {
	if a.status == http.StatusServiceUnavailable || a.status == http.StatusTooManyRequests {
		return batch, nil
	}
	var body struct {
		Results []struct {
			Status int             `json:"status"`
			Error  json.RawMessage `json:"error"`
		} `json:"results"`
	}
	if err := json.Unmarshal(a.body, &body); err != nil || a.status/100 != 2 || len(body.Results) != len(batch) {
		return nil, a.refusal()
	}
	for i, r := range body.Results {
		switch {
		case r.Status/100 == 2:
			e.accepted++
		case r.Status == http.StatusServiceUnavailable:
			again = append(again, batch[i])
		default:
			e.refused++
			_, _ = fmt.Fprintf(e.notes, "%s:%d: %s\n", e.file, batch[i].number, r.Error)
		}
	}
	return again, nil
}

func retryAfter(a *answer) time.Duration {
	if s, err := strconv.Atoi(a.header.Get("Retry-After")); err == nil && s >= 0 && s < 60 {
		return time.Duration(s) * time.Second
	}
	return 200 * time.Millisecond
}
