package rdb

import (
	"context"
	"log/slog"
	"strings"

	"github.com/redis/go-redis/v9"

	"eventspine/internal/fault"
)

// Vet checks every Redis node for settings under which it would lose what was stored. A
// maxmemory-policy other than noeviction is refused with an Invalid error that says what to
// change. Missing persistence, and a server that does not tell its restarts apart, are
// warned of in log. A server that refuses the credentials is reported in log and gives, like
// one that is away or loading, an Unavailable error. Servers that have no CONFIG command pass.
func Vet(ctx context.Context, client redis.UniversalClient, log *slog.Logger) error {
	const op = "check redis settings"
	check := func(ctx context.Context, node *redis.Client) error { return vetNode(ctx, node, log) }
	var err error
	if cluster, ok := client.(*redis.ClusterClient); ok {
		err = cluster.ForEachMaster(ctx, check)
	} else if single, ok := client.(*redis.Client); ok {
		err = check(ctx, single)
	} else {
		return fault.Errorf(op, fault.Internal, "a client of type %T cannot be checked", client)
	}
	if redis.IsAuthError(err) {
		log.Error("redis refuses the credentials", "fix", "correct the user and password in REDIS_URL")
	}
	return Classify(op, err)
}

func vetNode(ctx context.Context, node *redis.Client, log *slog.Logger) error {
	if err := node.Ping(ctx).Err(); err != nil {
		return err
	}
	addr := node.Options().Addr
	settings, err := node.ConfigGet(ctx, "*").Result()
	if redis.HasErrorPrefix(err, "unknown command") || redis.IsPermissionError(err) {
		log.Warn("redis settings cannot be read", "redis", addr, "fix", "make sure that maxmemory-policy is noeviction")
		settings, err = nil, nil
	}
	if err != nil {
		return err
	}
	if policy := settings["maxmemory-policy"]; policy != "" && policy != "noeviction" {
		return fault.Errorf("check redis settings", fault.Invalid,
			"redis at %s runs with maxmemory-policy %s and would throw away events under memory pressure; set it to noeviction (CONFIG SET maxmemory-policy noeviction, and in redis.conf)", addr, policy)
	}
	if settings != nil && settings["appendonly"] == "no" {
		log.Warn("redis does not persist every write", "redis", addr, "fix", "set appendonly yes and appendfsync everysec")
	}
	if info, err := node.Info(ctx, "server").Result(); err != nil || !strings.Contains(info, "run_id:") {
		log.Warn("redis does not tell its run id; a rollback of its data would go unnoticed", "redis", addr)
	}
	return nil
}
