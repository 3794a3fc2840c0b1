// Command sample-apiserver is Kubernetes' example of an extension API server, unmodified, from its Go module.
package main

import (
	"os"

	"k8s.io/apiserver/pkg/server"
	"k8s.io/component-base/cli"
	sample "k8s.io/sample-apiserver/pkg/cmd/server"
)

func main() {
	ctx := server.SetupSignalContext()
	command := sample.NewCommandStartWardleServer(ctx, sample.NewWardleServerOptions(os.Stdout, os.Stderr), false)
	os.Exit(cli.Run(command))
}
