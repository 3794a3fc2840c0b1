// Package informers follows a cluster with client-go's informers, with streamed lists and without.
package informers

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	clientfeatures "k8s.io/client-go/features"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

const patience = 60 * time.Second

// gates are client-go's, with one that the test sets.
type gates struct {
	clientfeatures.Gates
	watchList bool
}

func (g gates) Enabled(key clientfeatures.Feature) bool {
	if key == clientfeatures.WatchListClient {
		return g.watchList
	}
	return g.Gates.Enabled(key)
}

var original = sync.OnceValue(clientfeatures.FeatureGates)

func config(t *testing.T, contentType string) *rest.Config {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		t.Fatal(err)
	}
	config.ContentType = contentType
	// Nothing is to wait but for the server.
	config.QPS = -1
	return config
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestInformers(t *testing.T) {
	for _, watchList := range []bool{false, true} {
		for _, contentType := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
			t.Run(fmt.Sprintf("%s,WatchList=%v", contentType, watchList), func(t *testing.T) {
				clientfeatures.ReplaceFeatureGates(gates{original(), watchList})
				follow(t, contentType)
			})
		}
	}
}

// follow has objects made, changed and removed, and looks whether every kind of informer tells the same of them.
func follow(t *testing.T, contentType string) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	config := config(t, contentType)
	client := kubernetes.NewForConfigOrDie(config)
	namespace, err := client.CoreV1().Namespaces().Create(ctx,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "informers-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = client.CoreV1().Namespaces().Delete(context.Background(), namespace.Name, metav1.DeleteOptions{})
	}()
	maps := client.CoreV1().ConfigMaps(namespace.Name)
	create := func(name string) {
		made := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"of": "test"}}}
		if _, err := maps.Create(ctx, made, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	// More than client-go takes in one page, so that lists are paged.
	const before = 700
	for i := range before {
		create(fmt.Sprintf("m%d", i))
	}
	resource := schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	options := func(options *metav1.ListOptions) {
		options.LabelSelector = labels.Set{"of": "test"}.String()
		options.FieldSelector = fields.OneTermNotEqualSelector("metadata.name", "m0").String()
	}
	typed := informers.NewSharedInformerFactoryWithOptions(client, 0,
		informers.WithNamespace(namespace.Name), informers.WithTweakListOptions(options))
	untyped := dynamicinformer.NewFilteredDynamicSharedInformerFactory(
		dynamic.NewForConfigOrDie(config), 0, namespace.Name, options)
	partial := metadatainformer.NewFilteredSharedInformerFactory(
		metadata.NewForConfigOrDie(config), 0, namespace.Name, options)
	all := map[string]cache.SharedIndexInformer{
		"typed":   typed.Core().V1().ConfigMaps().Informer(),
		"dynamic": untyped.ForResource(resource).Informer(),
		"partial": partial.ForResource(resource).Informer(),
	}
	var mutex sync.Mutex
	changed := map[string]int{}
	for name, informer := range all {
		_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: func(_, _ any) {
			mutex.Lock()
			defer mutex.Unlock()
			changed[name]++
		}})
		if err != nil {
			t.Fatal(err)
		}
		go informer.RunWithContext(ctx)
	}
	count := func(wanted int) {
		t.Helper()
		for name, informer := range all {
			eventually(t, fmt.Sprintf("%d objects of the %s informer", wanted, name), func() bool {
				return informer.HasSynced() && len(informer.GetStore().List()) == wanted
			})
		}
	}
	count(before - 1)
	create("more")
	count(before)
	patch := []byte(`{"metadata":{"labels":{"more":"yes"}}}`)
	_, err = maps.Patch(ctx, "more", "application/merge-patch+json", patch, metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the change", func() bool {
		mutex.Lock()
		defer mutex.Unlock()
		return changed["typed"] > 0 && changed["dynamic"] > 0 && changed["partial"] > 0
	})
	// What is no longer selected goes as what is deleted does.
	patch = []byte(`{"metadata":{"labels":{"of":"nobody"}}}`)
	if _, err = maps.Patch(ctx, "more", "application/merge-patch+json", patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := maps.Delete(ctx, "m1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	count(before - 2)
	if err := maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "of=test"}); err != nil {
		t.Fatal(err)
	}
	count(0)
}
