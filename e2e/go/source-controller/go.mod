// The kinds of Flux's source-controller: of its module only the CustomResourceDefinitions are taken.
module corral.dev/e2e/go/source-controller

go 1.26.0

require github.com/fluxcd/source-controller v1.9.5
