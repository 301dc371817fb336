package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"eventspine/internal/auth"
)

func tokenCommand() *cobra.Command {
	var user, id, dir string
	var scopes []string
	var ttl time.Duration
	c := &cobra.Command{
		Use:   "token --user ID",
		Short: "Make a bearer token, signed with JWT_SECRET or the secret of `eventspine dev`",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := readLocal(dir)
			if err != nil {
				return err
			}
			secret := cmp.Or(os.Getenv("JWT_SECRET"), l.Secret)
			if secret == "" {
				return usage(errors.New("JWT_SECRET is empty and no `eventspine dev` ran here; set JWT_SECRET"))
			}
			if user == "" {
				return usage(errors.New("--user is missing"))
			}
			token, err := auth.Sign(secret, auth.Claims{Subject: user, Scopes: scopes, TTL: ttl, ID: id})
			if err != nil {
				return usage(err)
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), token)
			return err
		},
	}
	c.Flags().StringVar(&user, "user", "", "the user the token is for")
	c.Flags().StringSliceVar(&scopes, "scope", nil, "scopes: emit (events for other users), admin (everybody's events and metadata)")
	c.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long the token is good")
	c.Flags().StringVar(&id, "id", "", "the token's id (jti)")
	dirFlag(c, &dir)
	return c
}

// noArgs refuses stray words with exit code 2.
func noArgs(c *cobra.Command, args []string) error {
	if err := cobra.NoArgs(c, args); err != nil {
		return usage(err)
	}
	return nil
}
