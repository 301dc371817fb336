package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"
)

func revokeCommand() *cobra.Command {
	var t target
	var id, user string
	c := &cobra.Command{
		Use:   "revoke (--id JTI | --user ID)",
		Short: "Take a token back, or all that a user was given until now: their connections end, and they are refused",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if (id == "") == (user == "") {
				return usage(errors.New("give either --id or --user"))
			}
			if err := t.fill("operator", "admin"); err != nil {
				return err
			}
			asked := map[string]string{"user": user}
			if id != "" {
				asked = map[string]string{"jti": id}
			}
			body, err := json.Marshal(asked)
			if err != nil {
				return err
			}
			r, err := http.NewRequestWithContext(c.Context(), http.MethodPost, t.api+"/api/tokens/revoke", bytes.NewReader(body))
			if err != nil {
				return usage(err)
			}
			r.Header.Set("Content-Type", "application/json")
			got, err := t.request(r)
			if err != nil {
				return err
			}
			if got.status != http.StatusOK {
				return got.refusal()
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), "revoked")
			return err
		},
	}
	t.flags(c)
	c.Flags().StringVar(&id, "id", "", "the id of one token (jti)")
	c.Flags().StringVar(&user, "user", "", "the user whose tokens are all revoked")
	return c
}
