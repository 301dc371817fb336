package main

import (
	"cmp"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"eventspine/internal/archive"
	"eventspine/internal/config"
	"eventspine/internal/indexer"
	"eventspine/internal/rdb"
)

// stores are Redis and Elasticsearch as the indexer has them: by its environment, by flags, or of a
// running `eventspine dev`.
type stores struct {
	redis, es, dir string
	c              indexer.Config
}

func (s *stores) flags(c *cobra.Command) {
	c.Flags().StringVar(&s.redis, "redis", "", "URL of Redis (REDIS_URL)")
	c.Flags().StringVar(&s.es, "es", "", "URLs of Elasticsearch, separated by commas (ES_HOST)")
	dirFlag(c, &s.dir)
}

// open makes the clients, which the caller closes; it does not connect.
func (s *stores) open() (rdb.Client, *archive.Archive, error) {
	s.c = indexer.DefaultConfig()
	if err := config.Load(&s.c, os.Environ(), ""); err != nil {
		return nil, nil, err
	}
	l, err := readLocal(s.dir)
	if err != nil {
		return nil, nil, err
	}
	s.c.RedisURL = cmp.Or(s.redis, os.Getenv("REDIS_URL"), l.Redis, s.c.RedisURL)
	if es := cmp.Or(s.es, os.Getenv("ES_HOST"), l.ES); es != "" {
		s.c.ESHosts = strings.Split(es, ",")
	}
	a, err := archive.New(archive.Options{URLs: s.c.ESHosts, Index: s.c.Index, Replicas: s.c.Replicas, Refresh: s.c.Refresh, Timeout: s.c.Timeout})
	if err != nil {
		return nil, nil, err
	}
	client, err := rdb.Open(s.c.RedisURL)
	return client, a, err
}
