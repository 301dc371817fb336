package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"eventspine/internal/config"
	"eventspine/internal/suite"
)

func configCommand() *cobra.Command {
	var markdown bool
	var service string
	c := &cobra.Command{
		Use:   "config",
		Short: "Print every setting of every service: name, default, meaning",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case service != "":
				return settingsEnv(c.OutOrStdout(), service)
			case markdown:
				return settingsMarkdown(c.OutOrStdout())
			}
			return settingsText(c.OutOrStdout())
		},
	}
	c.Flags().StringVar(&service, "env", "", "as the environment file of this `service`, such as api, with each default commented out")
	c.Flags().BoolVar(&markdown, "markdown", false, "as the page docs/settings.md")
	return c
}

type serviceSettings struct {
	name     string
	settings []config.Setting
}

func allSettings() []serviceSettings {
	c := suite.ServiceDefaults()
	return []serviceSettings{
		{"api", config.Settings(&c.API)},
		{"worker", config.Settings(&c.Worker)},
		{"proxy", config.Settings(&c.Proxy)},
		{"indexer", config.Settings(&c.Indexer)},
		{"bridge", config.Settings(&c.Bridge)},
	}
}

func settingsText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, s := range allSettings() {
		_, _ = fmt.Fprintf(t, "%s\n", s.name) // tabwriter keeps an error for Flush
		for _, x := range s.settings {
			_, _ = fmt.Fprintf(t, "  %s\t%s\t%s\n", x.Name, shown(x), x.Meaning)
		}
		_, _ = fmt.Fprintln(t)
	}
	return t.Flush()
}

// settingsEnv writes what a service reads as a file for env or systemd's EnvironmentFile=.
func settingsEnv(w io.Writer, service string) error {
	for _, s := range allSettings() {
		if s.name != service {
			continue
		}
		var b strings.Builder
		fmt.Fprintf(&b, "# Settings of eventspine's %s. NAME_FILE gives the setting NAME the content of a file.\n", service)
		for _, x := range s.settings {
			value := x.Value
			if x.Secret {
				value = ""
			}
			fmt.Fprintf(&b, "\n# %s\n#%s=%s\n", x.Meaning, x.Name, value)
		}
		_, err := io.WriteString(w, b.String())
		return err
	}
	return usage(fmt.Errorf("--env takes the name of a service: api, worker, proxy, indexer or bridge, not %q", service))
}

func settingsMarkdown(w io.Writer) error {
	var b strings.Builder
	b.WriteString("# Settings\n\nEvery setting is an environment variable. `NAME_FILE` gives the setting `NAME` the content of a file.\n" +
		"A wrong value ends the service with one line that names it and exit code 2.\nThis page is made by `eventspine config --markdown`.\n")
	for _, s := range allSettings() {
		fmt.Fprintf(&b, "\n## %s\n\n| setting | default | meaning |\n| --- | --- | --- |\n", s.name)
		for _, x := range s.settings {
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", x.Name, code(shown(x)), strings.ReplaceAll(x.Meaning, "|", "\\|"))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func shown(s config.Setting) string {
	if s.Secret {
		return "(secret)"
	}
	return s.Value
}

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}
