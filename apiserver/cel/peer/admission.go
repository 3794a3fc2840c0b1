package main

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/traits"
	"google.golang.org/protobuf/types/known/structpb"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	k8sschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/mutation"
	"k8s.io/apiserver/pkg/cel/mutation/dynamic"
)

// policy is an expression of a webhook or an admission policy, and what it is evaluated with.
type policy struct {
	Params     bool `json:"params,omitempty"`
	Authorizer bool `json:"authorizer,omitempty"`
	Patch      bool `json:"patch,omitempty"`
	// condition, text, note, patch, configuration or any.
	Returns   string     `json:"returns"`
	Variables []variable `json:"variables,omitempty"`
	Budget    int64      `json:"budget,omitempty"`

	Object       json.RawMessage `json:"object,omitempty"`
	OldObject    json.RawMessage `json:"oldObject,omitempty"`
	ParamsObject json.RawMessage `json:"paramsObject,omitempty"`
	Namespace    json.RawMessage `json:"namespaceObject,omitempty"`
	Request      json.RawMessage `json:"request,omitempty"`
	// What the authorizer allows.
	Allowed []string `json:"allowed,omitempty"`
}

type variable struct {
	Name       string `json:"name"`
	Expression string `json:"expression"`
}

func (v variable) GetName() string          { return v.Name }
func (v variable) GetExpression() string    { return v.Expression }
func (v variable) ReturnTypes() []*cel.Type { return []*cel.Type{cel.AnyType, cel.DynType} }

type expression struct {
	text    string
	returns []*cel.Type
}

func (e expression) GetExpression() string    { return e.text }
func (e expression) ReturnTypes() []*cel.Type { return e.returns }

var returns = map[string][]*cel.Type{
	"condition":     {cel.BoolType},
	"text":          {cel.StringType},
	"note":          {cel.StringType, cel.NullType},
	"patch":         {cel.ListType(types.NewObjectType("JSONPatch"))},
	"configuration": {types.NewObjectType("Object")},
	"any":           {cel.AnyType, cel.DynType},
}

type allower []string

func (a allower) Authorize(_ context.Context, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	asked := attrs.GetVerb() + " " + attrs.GetPath()
	if attrs.IsResourceRequest() {
		selectors := ""
		if fields, err := attrs.GetFieldSelector(); err == nil {
			for _, f := range fields {
				selectors += " " + f.Field + "=" + f.Value
			}
		}
		if labels, err := attrs.GetLabelSelector(); err == nil {
			for _, l := range labels {
				selectors += " " + l.String()
			}
		}
		asked = fmt.Sprintf("%s %s/%s/%s %s/%s%s", attrs.GetVerb(), attrs.GetAPIGroup(), attrs.GetResource(), attrs.GetSubresource(), attrs.GetNamespace(), attrs.GetName(), selectors)
	}
	asked = attrs.GetUser().GetName() + " " + asked
	if attrs.GetVerb() == "fail" {
		return authorizer.DecisionNoOpinion, "", fmt.Errorf("failed: %s", asked)
	}
	for _, allowed := range a {
		if allowed == asked {
			return authorizer.DecisionAllow, "may: " + asked, nil
		}
	}
	return authorizer.DecisionNoOpinion, "may not: " + asked, nil
}

func asObject(raw json.RawMessage) runtime.Object {
	if raw == nil || string(raw) == "null" {
		return nil
	}
	return &unstructured.Unstructured{Object: decode(raw).(map[string]any)}
}

func answerPolicy(q question) *answer {
	a := &answer{}
	p := q.Policy
	compiler, err := plugincel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		panic(err)
	}
	options := plugincel.OptionalVariableDeclarations{HasParams: p.Params, HasAuthorizer: p.Authorizer}
	for _, v := range p.Variables {
		if r := compiler.CompileAndStoreVariable(v, options, environment.NewExpressions); r.Error != nil {
			a.Problems = append(a.Problems, r.Error.Error())
		}
	}
	options.HasPatchTypes = p.Patch
	accessor := expression{q.Expr, returns[p.Returns]}
	compiled := compiler.CompileCELExpression(accessor, options, environment.NewExpressions)
	if compiled.Error != nil {
		a.Issues = compiled.Error.Error()
		return a
	}
	a.Type = compiled.OutputType.String()

	var request admissionv1.AdmissionRequest
	if p.Request != nil {
		if err := json.Unmarshal(p.Request, &request); err != nil {
			panic(err)
		}
	}
	var namespace *corev1.Namespace
	if p.Namespace != nil {
		namespace = &corev1.Namespace{}
		if err := json.Unmarshal(p.Namespace, namespace); err != nil {
			panic(err)
		}
		namespace = plugincel.CreateNamespaceObject(namespace)
	}
	kind := k8sschema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}
	record := admission.NewAttributesRecord(asObject(p.Object), asObject(p.OldObject), kind, "ns", "name",
		k8sschema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, "scale",
		admission.Create, nil, false, &user.DefaultInfo{Name: "alice"})
	attributes := &admission.VersionedAttributes{
		Attributes: record, VersionedObject: asObject(p.Object), VersionedOldObject: asObject(p.OldObject), VersionedKind: kind,
	}
	bindings := plugincel.OptionalVariableBindings{VersionedParams: asObject(p.ParamsObject)}
	if p.Authorizer {
		bindings.Authorizer = allower(p.Allowed)
	}
	budget := p.Budget
	if budget == 0 {
		budget = 10_000_000
	}
	evaluator := plugincel.NewMutatingEvaluator(compiled)
	ctx := compiler.CreateContext(context.Background())
	result, remaining, err := evaluator.ForInput(ctx, attributes, &request, bindings, namespace, budget)
	a.Remaining = &remaining
	switch {
	case err != nil:
		a.Error = "all: " + err.Error()
	case result.Error != nil:
		a.Error = result.Error.Error()
	case p.Returns == "patch":
		if a.Value, err = operations(result.EvalResult.(traits.Lister)); err != nil {
			a.Error = err.Error()
		}
	case p.Returns == "configuration":
		object := result.EvalResult.(*dynamic.ObjectVal)
		if err := object.CheckTypeNamesMatchFieldPathNames(); err != nil {
			a.Error = fmt.Sprintf("type mismatch: %v", err)
			break
		}
		value, ok := object.Value().(map[string]any)
		if !ok {
			a.Error = fmt.Sprintf("invalid return type: %T", object)
			break
		}
		a.Value = compact(value)
	default:
		a.Value = show(result.EvalResult)
	}
	return a
}

func compact(v any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return "error: " + err.Error()
	}
	return strings.TrimSpace(b.String())
}

// operations gives the operations of a JSON patch as they would be applied.
func operations(list traits.Lister) (string, error) {
	out := []map[string]any{}
	for it := list.Iterator(); it.HasNext() == types.True; {
		native, err := it.Next().ConvertToNative(reflect.TypeOf(&mutation.JSONPatchVal{}))
		if err != nil {
			return "", err
		}
		patch := native.(*mutation.JSONPatchVal)
		operation := map[string]any{"op": patch.Op, "path": patch.Path}
		if patch.From != "" {
			operation["from"] = patch.From
		}
		if patch.Val != nil {
			if object, ok := patch.Val.(*dynamic.ObjectVal); ok {
				if err := object.CheckTypeNamesMatchFieldPathNames(); err != nil {
					return "", fmt.Errorf("type mismatch: %w", err)
				}
			}
			v, err := patch.Val.ConvertToNative(reflect.TypeOf(&structpb.Value{}))
			if err != nil {
				return "", fmt.Errorf("JSONPath valueExpression evaluated to a type that could not marshal to JSON: %w", err)
			}
			b, err := json.Marshal(v)
			if err != nil {
				return "", fmt.Errorf("JSONPath valueExpression evaluated to a type that could not marshal to JSON: %w", err)
			}
			operation["value"] = decode(b)
		}
		out = append(out, operation)
	}
	return compact(out), nil
}
