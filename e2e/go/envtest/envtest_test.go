// Package envtest starts a control plane as the tests of operators do, with nothing changed, and runs an operator in it.
package envtest

import (
	"context"
	"errors"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metrics "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"corral.dev/e2e/go/greeting"
)

const patience = 30 * time.Second

func newClient(t *testing.T, config *rest.Config) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, greeting.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	made, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func start(t *testing.T, environment *envtest.Environment) *rest.Config {
	t.Helper()
	began := time.Now()
	config, err := environment.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("started in %v", time.Since(began))
	t.Cleanup(func() {
		if err := environment.Stop(); err != nil {
			t.Error(err)
		}
	})
	return config
}

// eventually waits until something goes well.
func eventually(t *testing.T, what string, attempt func() error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := attempt()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s: %v", what, err)
		}
	}
}

var errNotYet = errors.New("not yet")

func unless(err error, holds bool) error {
	if err == nil && !holds {
		return errNotYet
	}
	return err
}

func TestUsersAndTokens(t *testing.T) {
	environment := &envtest.Environment{}
	admin := newClient(t, start(t, environment))
	ctx := context.Background()
	user, err := environment.AddUser(envtest.User{Name: "jane", Groups: []string{"devs"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	jane := newClient(t, user.Config())
	if err := jane.List(ctx, &corev1.SecretList{}); !apierrors.IsForbidden(err) {
		t.Fatalf("jane may not read Secrets, but: %v", err)
	}
	review := &authenticationv1.SelfSubjectReview{}
	if err := jane.Create(ctx, review); err != nil {
		t.Fatal(err)
	}
	if review.Status.UserInfo.Username != "jane" || review.Status.UserInfo.Groups[0] != "devs" {
		t.Fatalf("jane is %v", review.Status.UserInfo)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "robot"}}
	if err := admin.Create(ctx, account); err != nil {
		t.Fatal(err)
	}
	token := &authenticationv1.TokenRequest{}
	if err := admin.SubResource("token").Create(ctx, account, token); err != nil {
		t.Fatal(err)
	}
	robot := rest.AnonymousClientConfig(environment.Config)
	robot.BearerToken = token.Status.Token
	review = &authenticationv1.SelfSubjectReview{}
	if err := newClient(t, robot).Create(ctx, review); err != nil {
		t.Fatal(err)
	}
	if name := review.Status.UserInfo.Username; name != "system:serviceaccount:default:robot" {
		t.Fatalf("the token is %s", name)
	}
	// The plugin that wants an account is off, as envtest says: there is no controller that makes accounts.
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	if err := admin.Create(ctx, pod); err != nil {
		t.Fatal(err)
	}
}

func TestObjectsOutliveTheServer(t *testing.T) {
	environment := &envtest.Environment{}
	server := environment.ControlPlane.GetAPIServer()
	// A folder of the test's own is not removed when the server stops.
	server.CertDir = t.TempDir()
	config := start(t, environment)
	ctx := context.Background()
	kept := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kept"}}
	if err := newClient(t, config).Create(ctx, kept); err != nil {
		t.Fatal(err)
	}
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	user, err := environment.AddUser(envtest.User{Name: "root", Groups: []string{"system:masters"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := newClient(t, user.Config()).Get(ctx, client.ObjectKeyFromObject(kept), kept); err != nil {
		t.Fatal(err)
	}
}

func TestOperator(t *testing.T) {
	ctrl.SetLogger(zap.New())
	environment := &envtest.Environment{
		CRDDirectoryPaths:     []string{"../greeting/config/crd"},
		ErrorIfCRDPathMissing: true,
		WebhookInstallOptions: envtest.WebhookInstallOptions{Paths: []string{"../greeting/config/webhook"}},
	}
	config := start(t, environment)
	admin := newClient(t, config)
	hooks := environment.WebhookInstallOptions
	manager, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:         admin.Scheme(),
		Metrics:        metrics.Options{BindAddress: "0"},
		LeaderElection: true, LeaderElectionID: "greetings", LeaderElectionNamespace: "default",
		WebhookServer: webhook.NewServer(webhook.Options{
			Host: hooks.LocalServingHost, Port: hooks.LocalServingPort, CertDir: hooks.LocalServingCertDir,
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := (&greeting.Reconciler{Client: manager.GetClient()}).SetupWithManager(manager); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- manager.Start(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	hello := &greeting.Greeting{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "hello"},
		Spec:       greeting.Spec{Text: "hello "},
	}
	eventually(t, "the webhooks", func() error { return admin.Create(ctx, hello) })
	if hello.Spec.Times != 1 {
		t.Fatalf("the defaulter did not say how often: %v", hello.Spec)
	}
	eventually(t, "the condition", func() error {
		err := admin.Get(ctx, client.ObjectKeyFromObject(hello), hello)
		return unless(err, meta.IsStatusConditionTrue(hello.Status.Conditions, "Said"))
	})
	hello.Spec.Times = 2
	if err := admin.Update(ctx, hello); err != nil {
		t.Fatal(err)
	}
	said := &corev1.ConfigMap{}
	eventually(t, "the ConfigMap", func() error {
		err := admin.Get(ctx, client.ObjectKeyFromObject(hello), said)
		return unless(err, said.Data["said"] == "hello hello ")
	})
	for _, wrong := range []greeting.Spec{{Text: "", Times: 1}, {Text: "x", Times: 101}} {
		refused := &greeting.Greeting{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "x"}, Spec: wrong}
		if err := admin.Create(ctx, refused); err == nil {
			t.Fatalf("%v is taken", wrong)
		}
	}
	if err := admin.Delete(ctx, hello); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the finalizer", func() error {
		err := admin.Get(ctx, client.ObjectKeyFromObject(hello), hello)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return unless(err, false)
	})
}
