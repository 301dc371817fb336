// Command eventspine is the operator's command: it runs the whole system on a laptop, makes
// tokens, sends and follows events, and explains the settings.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"eventspine/internal/run"
)

func main() {
	run.Collector(os.Environ(), run.GCMoving) // dev is all five services
	ctx, stop := run.Signals(context.Background())
	code := execute(ctx)
	stop()
	os.Exit(code)
}

func execute(ctx context.Context) int {
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "eventspine:", err)
		return run.Code(err)
	}
	return run.ExitOK
}

func root() *cobra.Command {
	c := &cobra.Command{
		Use:           "eventspine",
		Short:         "A real-time event backbone for a small team",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage(err) })
	c.AddCommand(devCommand(), tokenCommand(), revokeCommand(), emitCommand(), tailCommand(), searchCommand(), rulesCommand(), keygenCommand(), pingCommand(), statusCommand(), doctorCommand(), verifyCommand(), reindexCommand(), deadlettersCommand(), configCommand(), versionCommand(), manCommand())
	return c
}
