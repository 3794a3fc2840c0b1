// Package greeting is an operator as kubebuilder lays one out: a kind of its own, a controller that makes a ConfigMap
// of each object, and webhooks that complete and check them.
package greeting

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is where greetings are served.
var GroupVersion = schema.GroupVersion{Group: "tests.corral.dev", Version: "v1"}

// Spec is what somebody wants.
type Spec struct {
	Text  string `json:"text"`
	Times int32  `json:"times,omitempty"`
}

// Status is what there is.
type Status struct {
	ConfigMap  string             `json:"configMap,omitempty"`
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Greeting is said so many times.
type Greeting struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   Spec   `json:"spec"`
	Status Status `json:"status,omitempty"`
}

// GreetingList is many.
type GreetingList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Greeting `json:"items"`
}

// DeepCopy copies.
func (in *Greeting) DeepCopy() *Greeting {
	out := *in
	out.ObjectMeta = *in.ObjectMeta.DeepCopy()
	out.Status.Conditions = nil
	for _, condition := range in.Status.Conditions {
		out.Status.Conditions = append(out.Status.Conditions, *condition.DeepCopy())
	}
	return &out
}

// DeepCopyObject copies.
func (in *Greeting) DeepCopyObject() runtime.Object { return in.DeepCopy() }

// DeepCopyObject copies.
func (in *GreetingList) DeepCopyObject() runtime.Object {
	out := *in
	out.ListMeta = *in.ListMeta.DeepCopy()
	out.Items = nil
	for i := range in.Items {
		out.Items = append(out.Items, *in.Items[i].DeepCopy())
	}
	return &out
}

// AddToScheme tells of the kinds.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion, &Greeting{}, &GreetingList{})
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
