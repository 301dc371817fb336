package main

import (
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
	var user, id, dir string
	var scopes []string
	var ttl time.Duration
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
			if s.JWTSecret == "" {
				return usage(errors.New("JWT_SECRET is empty and no `eventspine dev` ran here; set JWT_SECRET, JWT_SECRET_FILE or JWT_SECRETS"))
			}
			if user == "" {
				return usage(errors.New("--user is missing"))
			}
			token, err := s.sign(auth.Claims{Subject: user, Scopes: scopes, TTL: ttl, ID: id})
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

// sign makes a token that names the issuer and the audience which the services ask for.
func (s *signer) sign(c auth.Claims) (string, error) {
	c.Issuer, c.Audience, c.Key = s.JWTIssuer, s.JWTAudience, s.kid
	return auth.Sign(s.JWTSecret, c)
}

// noArgs refuses stray words with exit code 2.
func noArgs(c *cobra.Command, args []string) error {
	if err := cobra.NoArgs(c, args); err != nil {
		return usage(err)
	}
	return nil
}
