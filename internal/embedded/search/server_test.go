package search_test

import (
	"testing"

	"go.uber.org/goleak"

	"eventspine/internal/archive/archivetest"
	"eventspine/internal/embedded/search"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, dir string) *search.Server {
	t.Helper()
	s, err := search.Start(t.Context(), search.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestContract is what a genuine Elasticsearch has to pass as well.
func TestContract(t *testing.T) { archivetest.Run(t, start(t, t.TempDir()).URL()) }
