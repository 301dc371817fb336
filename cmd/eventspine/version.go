package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"eventspine/internal/run"
)

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(c.OutOrStdout(), "eventspine %s\n", run.About())
			return err
		},
	}
}
