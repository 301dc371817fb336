package main

import (
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"eventspine/internal/run"
)

// manCommand writes the manual for packages; users have it installed.
func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the manual pages of all commands into a directory",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			root := c.Root()
			root.DisableAutoGenTag = true
			return doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "eventspine " + run.Version(), Manual: "eventspine"}, args[0])
		},
	}
}
