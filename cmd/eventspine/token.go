package main

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"eventspine/internal/auth"
	"eventspine/internal/config"
	"eventspine/internal/fault"
)

func tokenCommand() *cobra.Command {
	var claims auth.Claims
	var dir string
	c := &cobra.Command{
		Use:   "token --user ID",
		Short: "Make a bearer token, signed with JWT_SECRET (or JWT_SECRET_FILE, JWT_SECRETS) or the secret of `eventspine dev`",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := readLocal(dir)
			if err != nil {
				return err
			}
			s, err := loadSigner(l)
			if err != nil {
				return err
			}
			if err := s.choose(claims.Key); err != nil {
				return usage(err)
			}
			if s.JWTSecret == "" {
				return usage(errors.New("JWT_SECRET is empty and no `eventspine dev` ran here; set JWT_SECRET, JWT_SECRET_FILE or JWT_SECRETS"))
			}
			if claims.Subject == "" {
				return usage(errors.New("--user is missing"))
			}
			token, err := s.sign(claims)
			if err != nil {
				return usage(err)
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), token)
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&claims.Subject, "user", "", "the user the token is for")
	f.StringSliceVar(&claims.Scopes, "scope", nil, "scopes: emit (events for other users), admin (everybody's events and metadata, revoking tokens)")
	f.DurationVar(&claims.TTL, "ttl", 24*time.Hour, "how long the token is good")
	f.StringVar(&claims.ID, "id", "", "the token's id (jti), by which it can be revoked; empty: a random one")
	f.StringVar(&claims.Key, "kid", "", "name of the secret in JWT_SECRETS to sign with; empty: JWT_SECRET, or the first of them")
	f.StringVar(&claims.Issuer, "issuer", "", "who makes the token (iss); empty: JWT_ISSUER")
	f.StringVar(&claims.Audience, "audience", "", "whom the token is meant for (aud); empty: JWT_AUDIENCE")
	dirFlag(c, &dir)
	return c
}

// signer holds the settings of the services that check tokens, to make tokens that they accept.
type signer struct {
	auth.Settings
	kid string
}

// Base is there for package config; there are no common settings.
func (s *signer) Base() *config.Common { return &config.Common{} }

// Validate accepts everything: whoever has no secret here may have a token already.
func (s *signer) Validate() []fault.Field { return nil }

// loadSigner takes JWT_SECRET, the first of JWT_SECRETS, or the secret of a running
// `eventspine dev`. Without any of them JWTSecret is empty.
func loadSigner(l local) (*signer, error) {
	s := &signer{Settings: auth.DefaultSettings()}
	if err := config.Load(s, os.Environ(), ""); err != nil {
		return nil, err
	}
	if s.JWTSecret != "" {
		return s, nil
	}
	if list, _ := auth.ParseSecrets(s.JWTSecrets); len(list) > 0 {
		s.JWTSecret, s.kid = list[0].Value, list[0].ID
		return s, nil
	}
	s.JWTSecret = l.Secret
	return s, nil
}

// choose takes the secret with that name in JWT_SECRETS; an empty name changes nothing.
func (s *signer) choose(kid string) error {
	if kid == "" {
		return nil
	}
	list, problem := auth.ParseSecrets(s.JWTSecrets)
	if problem != "" {
		return errors.New("JWT_SECRETS " + problem)
	}
	for _, secret := range list {
		if secret.ID == kid {
			s.JWTSecret, s.kid = secret.Value, kid
			return nil
		}
	}
	return fmt.Errorf("JWT_SECRETS has no secret named %q", kid)
}

// sign makes a token that can be revoked, and that names the issuer and the audience which the
// services ask for.
func (s *signer) sign(c auth.Claims) (string, error) {
	c.Issuer, c.Audience, c.Key = cmp.Or(c.Issuer, s.JWTIssuer), cmp.Or(c.Audience, s.JWTAudience), s.kid
	c.ID = cmp.Or(c.ID, rand.Text())
	return auth.Sign(s.JWTSecret, c)
}

// noArgs refuses stray words with exit code 2.
func noArgs(c *cobra.Command, args []string) error {
	if err := cobra.NoArgs(c, args); err != nil {
		return usage(err)
	}
	return nil
}
