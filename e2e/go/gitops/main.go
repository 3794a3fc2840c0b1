// Command gitops keeps a namespace as the manifests in a git repository say, with Argo CD's engine.
//
// It takes what is committed when it reads a line, and undoes by itself what others change. It syncs step by step, each from
// what the one before it said, as Argo CD's own controller does: engine.Sync does not see hooks that it has made itself. Each
// line that it prints is JSON with one of three fields: what a sync did, what differs from the repository, or how things are.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/argoproj/argo-cd/gitops-engine/pkg/cache"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/diff"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/health"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/sync"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/sync/common"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/sync/hook"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/utils/kube"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/utils/tracing"
	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	// Says of an object that it comes out of the repository, and which it is: controllers copy annotations to others.
	ours    = "gitops.example/object"
	manager = "gitops"
)

type agent struct {
	folder, namespace string
	serverSide        bool
	cluster           cache.ClusterCache
	config            *rest.Config
	kubectl           kube.Kubectl
	changed           chan struct{}
	options           []sync.SyncOpt
	revision          string
	wanted            []*unstructured.Unstructured
	told              map[string]state
}

// What happened to an object in a sync.
type outcome struct {
	Object  string `json:"object"`
	Result  string `json:"result"`
	Phase   string `json:"phase"`
	Hook    string `json:"hook"`
	Order   int    `json:"order"`
	Message string `json:"message"`
}

type state struct {
	Health string   `json:"health"`
	Tree   []string `json:"tree"`
}

func main() {
	a := &agent{}
	flag.StringVar(&a.folder, "repository", "", "The folder of the git repository.")
	flag.StringVar(&a.namespace, "namespace", "default", "Where objects without a namespace go.")
	flag.BoolVar(&a.serverSide, "server-side", false, "Apply and compare on the server.")
	flag.Parse()
	if err := a.run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "gitops:", err)
		os.Exit(1)
	}
}

func (a *agent) run(ctx context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	a.connect(config)
	if err := a.cluster.EnsureSynced(); err != nil {
		return err
	}
	defer a.cluster.Invalidate()
	lines := make(chan struct{})
	go func() {
		defer close(lines)
		for input := bufio.NewScanner(os.Stdin); input.Scan(); {
			lines <- struct{}{}
		}
	}()
	for {
		select {
		case _, more := <-lines:
			if !more {
				return nil
			}
			err = a.pull(ctx)
		case <-a.changed:
			err = a.look()
		}
		if err != nil {
			return err
		}
	}
}

func (a *agent) connect(config *rest.Config) {
	// As Argo CD has it: there are many kinds to list.
	config.QPS, config.Burst = 50, 100
	log := logr.Discard()
	a.config, a.kubectl = config, &kube.KubectlCmd{Log: log, Tracer: tracing.NopTracer{}}
	a.cluster = cache.NewClusterCache(config, cache.SetLogr(log), cache.SetPopulateResourceInfoHandler(
		func(object *unstructured.Unstructured, _ bool) (any, bool) {
			mark := object.GetAnnotations()[ours]
			return mark, mark != ""
		}))
	a.options = []sync.SyncOpt{
		sync.WithPrune(true), sync.WithLogr(log), sync.WithManifestValidation(true),
		sync.WithServerSideApply(a.serverSide), sync.WithServerSideApplyManager(manager),
	}
	a.changed = make(chan struct{}, 1)
	a.cluster.OnResourceUpdated(func(_, _ *cache.Resource, _ map[kube.ResourceKey]*cache.Resource) { a.wake() })
}

// Has the loop look at what is there.
func (a *agent) wake() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

func name(key kube.ResourceKey) string {
	return key.Kind + "/" + key.Name
}

func isOurs(resource *cache.Resource) bool {
	return resource.Info == name(resource.ResourceKey())
}

func (a *agent) git(ctx context.Context, args ...string) (string, error) {
	command := exec.CommandContext(ctx, "git", args...)
	command.Dir, command.Stderr = a.folder, os.Stderr
	output, err := command.Output()
	return string(output), err
}

// Takes what is committed, and makes the cluster so.
func (a *agent) pull(ctx context.Context) error {
	revision, err := a.git(ctx, "rev-parse", "HEAD")
	if err != nil {
		return err
	}
	files, err := a.git(ctx, "ls-tree", "-r", "--name-only", "HEAD")
	if err != nil {
		return err
	}
	a.revision, a.wanted = strings.TrimSpace(revision), nil
	for file := range strings.Lines(files) {
		text, err := a.git(ctx, "show", "HEAD:"+strings.TrimSpace(file))
		if err != nil {
			return err
		}
		objects, err := kube.SplitYAML([]byte(text))
		if err != nil {
			return err
		}
		a.wanted = append(a.wanted, objects...)
	}
	for _, object := range a.wanted {
		namespaced, err := a.cluster.IsNamespaced(object.GroupVersionKind().GroupKind())
		if err != nil {
			return err
		}
		if namespaced && object.GetNamespace() == "" {
			object.SetNamespace(a.namespace)
		}
		if hook.IsHook(object) {
			continue
		}
		annotations := object.GetAnnotations()
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[ours] = name(kube.GetResourceKey(object))
		object.SetAnnotations(annotations)
	}
	return a.sync(false)
}

func (a *agent) sync(skipHooks bool) error {
	waves := 0
	counted := sync.WithSyncWaveHook(func(_ common.SyncPhase, _ int, _ bool) error { waves++; return nil })
	started, phase, message, results := metav1.Now(), common.OperationRunning, "", []common.ResourceSyncResult(nil)
	for !phase.Completed() {
		known, err := a.cluster.GetManagedLiveObjs(a.wanted, isOurs)
		if err != nil {
			return err
		}
		pairs := sync.Reconcile(a.wanted, known, a.namespace, a.cluster)
		options := append(slices.Clone(a.options), counted, sync.WithSkipHooks(skipHooks),
			sync.WithInitialState(phase, message, results, started))
		step, cleanup, err := sync.NewSyncContext(a.revision, pairs, a.config, a.config, a.kubectl, a.namespace, options...)
		if err != nil {
			return err
		}
		step.Sync()
		phase, message, results = step.GetState()
		cleanup()
		if !phase.Completed() {
			// Argo CD, too, goes on after a while when nothing is seen.
			select {
			case <-a.changed:
			case <-time.After(time.Second):
			}
		}
	}
	if phase != common.OperationSucceeded {
		return fmt.Errorf("sync %s: %s: %v", phase, message, results)
	}
	a.wake()
	outcomes := []outcome{}
	for _, result := range results {
		outcomes = append(outcomes, outcome{
			name(result.ResourceKey), string(result.Status), string(result.HookPhase), string(result.HookType), result.Order, result.Message,
		})
	}
	return tell(map[string]any{"synced": a.revision, "outcomes": outcomes, "waves": waves})
}

// Tells how things are, and undoes what others have changed.
func (a *agent) look() error {
	if a.revision == "" {
		return nil
	}
	known, err := a.cluster.GetManagedLiveObjs(a.wanted, isOurs)
	if err != nil {
		return err
	}
	if err := a.tellStates(known); err != nil {
		return err
	}
	pairs := sync.Reconcile(a.wanted, known, a.namespace, a.cluster)
	result, err := diff.DiffArray(pairs.Target, pairs.Live,
		diff.WithStructuredMergeDiff(a.serverSide), diff.WithGVKParser(a.cluster.GetGVKParser()), diff.WithManager(manager))
	if err != nil {
		return err
	}
	drift := []string{}
	for i, differs := range result.Diffs {
		switch target, live := pairs.Target[i], pairs.Live[i]; {
		case target != nil && live == nil:
			drift = append(drift, name(kube.GetResourceKey(target))+" is gone")
		case target != nil && differs.Modified:
			drift = append(drift, name(kube.GetResourceKey(live))+" is at "+live.GetResourceVersion())
		}
	}
	if len(drift) == 0 {
		return nil
	}
	if err := tell(map[string]any{"drift": drift}); err != nil {
		return err
	}
	return a.sync(true)
}

func (a *agent) tellStates(known map[kube.ResourceKey]*unstructured.Unstructured) error {
	states := map[string]state{}
	for key, live := range known {
		if live == nil {
			continue
		}
		judged, err := health.GetResourceHealth(live, nil)
		if err != nil {
			return err
		}
		now := state{Tree: []string{}}
		if judged != nil {
			now.Health = string(judged.Status)
		}
		kinds := map[string]bool{}
		a.cluster.IterateHierarchyV2([]kube.ResourceKey{key}, func(child *cache.Resource, _ map[kube.ResourceKey]*cache.Resource) bool {
			kinds[child.Ref.Kind] = true
			return true
		})
		now.Tree = slices.Sorted(maps.Keys(kinds))
		states[name(key)] = now
	}
	if reflect.DeepEqual(states, a.told) {
		return nil
	}
	a.told = states
	return tell(map[string]any{"states": states})
}

func tell(what any) error {
	return json.NewEncoder(os.Stdout).Encode(what)
}
