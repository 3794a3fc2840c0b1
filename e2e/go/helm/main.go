// Command helm is Helm, unmodified, from its Go module.
package main

import (
	"errors"
	"log/slog"
	"os"

	"helm.sh/helm/v4/pkg/cmd"
	"helm.sh/helm/v4/pkg/kube"
)

func main() {
	kube.ManagedFieldsManager = "helm"
	command, err := cmd.NewRootCmd(os.Stdout, os.Args[1:], cmd.SetupLogging)
	if err != nil {
		slog.Error("helm", "error", err)
		os.Exit(1)
	}
	if err := command.Execute(); err != nil {
		code := 1
		if failed := (cmd.CommandError{}); errors.As(err, &failed) {
			code = failed.ExitCode
		}
		os.Exit(code)
	}
}
