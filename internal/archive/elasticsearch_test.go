package archive_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"eventspine/internal/archive/archivetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestElasticsearch is the contract on a genuine server. Its stand-in is tested in embedded/search.
func TestElasticsearch(t *testing.T) {
	url := os.Getenv("EVENTSPINE_TEST_ES")
	if url == "" {
		if os.Getenv("EVENTSPINE_REQUIRE_SERVERS") != "" {
			t.Fatal("EVENTSPINE_TEST_ES is not set; test/elasticsearch/with.sh sets it")
		}
		t.Skip("no Elasticsearch: EVENTSPINE_TEST_ES is not set")
	}
	archivetest.Run(t, url)
}
