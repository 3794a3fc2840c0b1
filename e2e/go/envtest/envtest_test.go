// Package envtest starts a control plane as operators' own tests do, and runs a manager against it.
package envtest

import (
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

func TestStart(t *testing.T) {
	environment := &envtest.Environment{}
	if _, err := environment.Start(); err != nil {
		t.Fatal(err)
	}
	if err := environment.Stop(); err != nil {
		t.Fatal(err)
	}
}
