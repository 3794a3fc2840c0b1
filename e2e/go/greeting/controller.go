package greeting

import (
	"context"
	"errors"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

const finalizer = "tests.corral.dev/goodbye"

// Reconciler makes ConfigMaps of greetings.
type Reconciler struct {
	client.Client
}

// Reconcile looks at one greeting.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var greeting Greeting
	if err := r.Get(ctx, request.NamespacedName, &greeting); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !greeting.DeletionTimestamp.IsZero() {
		if controllerutil.RemoveFinalizer(&greeting, finalizer) {
			return ctrl.Result{}, r.Update(ctx, &greeting)
		}
		return ctrl.Result{}, nil
	}
	if controllerutil.AddFinalizer(&greeting, finalizer) {
		if err := r.Update(ctx, &greeting); err != nil {
			return ctrl.Result{}, err
		}
	}
	said := corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: greeting.Namespace, Name: greeting.Name}}
	_, err := controllerutil.CreateOrUpdate(ctx, r.Client, &said, func() error {
		said.Data = map[string]string{"said": strings.Repeat(greeting.Spec.Text, int(greeting.Spec.Times))}
		return controllerutil.SetControllerReference(&greeting, &said, r.Scheme())
	})
	if err != nil {
		return ctrl.Result{}, err
	}
	greeting.Status.ConfigMap = said.Name
	meta.SetStatusCondition(&greeting.Status.Conditions, metav1.Condition{
		Type: "Said", Status: metav1.ConditionTrue, Reason: "Said", ObservedGeneration: greeting.Generation,
	})
	return ctrl.Result{}, r.Status().Update(ctx, &greeting)
}

// Default says a greeting once unless somebody wants more.
func (*Reconciler) Default(_ context.Context, greeting *Greeting) error {
	if greeting.Spec.Times == 0 {
		greeting.Spec.Times = 1
	}
	return nil
}

var errSilent = errors.New("a greeting has a text")

// ValidateCreate refuses silence.
func (*Reconciler) ValidateCreate(_ context.Context, greeting *Greeting) (admission.Warnings, error) {
	if greeting.Spec.Text == "" {
		return nil, errSilent
	}
	if greeting.Spec.Times > 10 {
		return admission.Warnings{"that is often"}, nil
	}
	return nil, nil
}

// ValidateUpdate refuses silence.
func (r *Reconciler) ValidateUpdate(ctx context.Context, _, greeting *Greeting) (admission.Warnings, error) {
	return r.ValidateCreate(ctx, greeting)
}

// ValidateDelete lets everything go.
func (*Reconciler) ValidateDelete(context.Context, *Greeting) (admission.Warnings, error) {
	return nil, nil
}

// SetupWithManager runs controller and webhooks.
func (r *Reconciler) SetupWithManager(manager ctrl.Manager) error {
	if err := ctrl.NewWebhookManagedBy(manager, &Greeting{}).WithDefaulter(r).WithValidator(r).Complete(); err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(manager).For(&Greeting{}).Owns(&corev1.ConfigMap{}).Complete(r)
}
