// Peer answers questions about expressions with kube-apiserver's own libraries.
//
// It reads one question a line, as JSON, and writes it again with its answer. "peer generate N SEED" writes questions.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/checker"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	schemacel "k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/common"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"
	"k8s.io/apiserver/pkg/warning"
)

type question struct {
	Name string `json:"name,omitempty"`
	// An expression, with the data "self" of a schema, or with variables of any type.
	Expr   string          `json:"expr,omitempty"`
	Schema json.RawMessage `json:"schema,omitempty"`
	Self   json.RawMessage `json:"self,omitempty"`
	Vars   json.RawMessage `json:"vars,omitempty"`
	Minor  uint            `json:"minor,omitempty"`
	// The schema of a custom resource, and objects to validate.
	Rules   json.RawMessage `json:"rules,omitempty"`
	Objects []object        `json:"objects,omitempty"`
	// How an expression is used in a webhook or an admission policy.
	Policy *policy `json:"policy,omitempty"`

	Answer *answer `json:"answer,omitempty"`
}

type object struct {
	New    json.RawMessage `json:"new"`
	Old    json.RawMessage `json:"old,omitempty"`
	Budget int64           `json:"budget,omitempty"`
}

type answer struct {
	Issues   string    `json:"issues,omitempty"`
	Constant string    `json:"constant,omitempty"`
	Type     string    `json:"type,omitempty"`
	Min      uint64    `json:"min"`
	Max      uint64    `json:"max"`
	Value    string    `json:"value,omitempty"`
	Error    string    `json:"error,omitempty"`
	Cost     uint64    `json:"cost"`
	Problems []string  `json:"problems,omitempty"`
	Findings []finding `json:"findings,omitempty"`
	// What is left of the budget after an expression of a policy; -1 if it was too little.
	Remaining *int64 `json:"remaining,omitempty"`
}

type finding struct {
	Errors    []string `json:"errors,omitempty"`
	Warnings  []string `json:"warnings,omitempty"`
	Remaining int64    `json:"remaining"`
}

func main() {
	if len(os.Args) == 4 && os.Args[1] == "generate" {
		n, _ := strconv.Atoi(os.Args[2])
		seed, _ := strconv.ParseInt(os.Args[3], 10, 64)
		generate(n, seed)
		return
	}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(make([]byte, 1<<20), 1<<26)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for in.Scan() {
		if len(strings.TrimSpace(in.Text())) == 0 {
			continue
		}
		var q question
		if err := json.Unmarshal(in.Bytes(), &q); err != nil {
			panic(fmt.Sprintf("%v: %s", err, in.Text()))
		}
		if q.Answer = stable(q); q.Answer != nil {
			write(out, q)
		}
	}
}

// How often a question is asked, as the order of a Go map is often, but not always, another one.
const times = 40

// stable answers a question, or not if the answer depends on the order of a Go map.
func stable(q question) *answer {
	var first *answer
	for range times {
		a := try(q)
		if a == nil {
			return nil
		}
		sort.Strings(a.Problems)
		for _, f := range a.Findings {
			sort.Strings(f.Errors)
			sort.Strings(f.Warnings)
		}
		if first == nil {
			first = a
		} else if !reflect.DeepEqual(first, a) {
			fmt.Fprintf(os.Stderr, "another answer each time to %s%s\n", q.Expr, q.Rules)
			return nil
		}
	}
	return first
}

// try answers a question, or not if the libraries panic over it.
func try(q question) (a *answer) {
	defer func() {
		if p := recover(); p != nil {
			fmt.Fprintf(os.Stderr, "panic over %s: %v\n", q.Expr, p)
			a = nil
		}
	}()
	if q.Rules != nil {
		return answerRules(q)
	}
	if q.Policy != nil {
		return answerPolicy(q)
	}
	return answerExpression(q)
}

func write(out *bufio.Writer, q question) {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(q); err != nil {
		panic(err)
	}
}

// decode reads JSON as the API server does: whole numbers are int64.
func decode(raw json.RawMessage) any {
	if raw == nil {
		return nil
	}
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		panic(err)
	}
	return numbers(v)
}

func numbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return i
		}
		f, _ := v.Float64()
		return f
	case []any:
		for i := range v {
			v[i] = numbers(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = numbers(v[k])
		}
	}
	return v
}

func structural(raw json.RawMessage) *schema.Structural {
	var props apiextensionsv1.JSONSchemaProps
	if err := json.Unmarshal(raw, &props); err != nil {
		panic(err)
	}
	var internal apiextensions.JSONSchemaProps
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(&props, &internal, nil); err != nil {
		panic(err)
	}
	s, err := schema.NewStructural(&internal)
	if err != nil {
		panic(err)
	}
	return s
}

type sizes struct{ root *apiservercel.DeclType }

func (s *sizes) EstimateSize(element checker.AstNode) *checker.SizeEstimate {
	if len(element.Path()) == 0 || s.root == nil {
		return nil
	}
	current := s.root
	for _, name := range element.Path()[1:] {
		switch name {
		case "@items", "@values":
			if current.ElemType == nil {
				return nil
			}
			current = current.ElemType
		case "@keys":
			if current.KeyType == nil {
				return nil
			}
			current = current.KeyType
		default:
			f, ok := current.Fields[name]
			if !ok || f.Type == nil {
				return nil
			}
			current = f.Type
		}
	}
	return &checker.SizeEstimate{Min: 0, Max: uint64(current.MaxElements)}
}

func (s *sizes) EstimateCallCost(string, string, *checker.AstNode, []checker.AstNode) *checker.CallEstimate {
	return nil
}

func answerExpression(q question) (a *answer) {
	a = &answer{}
	minor := q.Minor
	if minor == 0 {
		minor = 36
	}
	set := environment.MustBaseEnvSet(version.MajorMinor(1, minor))
	options := environment.VersionedOptions{IntroducedVersion: version.MajorMinor(1, 0)}
	activation := map[string]any{}
	var root *apiservercel.DeclType
	if q.Schema != nil {
		s := structural(q.Schema)
		root = model.SchemaDeclType(s, false)
		named := root.MaybeAssignTypeName("selfType")
		options.DeclTypes = append(options.DeclTypes, named)
		options.EnvOptions = append(options.EnvOptions, cel.Variable("self", named.CelType()))
		activation["self"] = schemacel.UnstructuredToVal(decode(q.Self), s)
	}
	if q.Vars != nil {
		for name, value := range decode(q.Vars).(map[string]any) {
			options.EnvOptions = append(options.EnvOptions, cel.Variable(name, cel.DynType))
			activation[name] = value
		}
	}
	set, err := set.Extend(options)
	if err != nil {
		panic(err)
	}
	env := set.NewExpressionsEnv()
	ast, issues := env.Compile(q.Expr)
	if issues != nil {
		a.Issues = issues.String()
		return
	}
	a.Type = checker.FormatCELType(ast.OutputType())
	estimator := &library.CostEstimator{SizeEstimator: &sizes{root}}
	estimate, err := env.EstimateCost(ast, estimator)
	if err != nil {
		panic(err)
	}
	a.Min, a.Max = estimate.Min, estimate.Max
	program, err := env.Program(ast, cel.CostLimit(celconfig.PerCallLimit), cel.CostTracking(estimator),
		cel.InterruptCheckFrequency(celconfig.CheckFrequency))
	if err != nil {
		a.Constant = err.Error()
		return
	}
	value, details, err := program.ContextEval(context.Background(), activation)
	if details != nil && details.ActualCost() != nil {
		a.Cost = *details.ActualCost()
	}
	if err != nil {
		a.Error = err.Error()
		return
	}
	a.Value = show(value)
	return
}

var selfType = regexp.MustCompile(`selfType\d+`)

func answerRules(q question) *answer {
	a := &answer{}
	var props apiextensionsv1.JSONSchemaProps
	if err := json.Unmarshal(q.Rules, &props); err != nil {
		panic(err)
	}
	var internal apiextensions.JSONSchemaProps
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(&props, &internal, nil); err != nil {
		panic(err)
	}
	no := false
	crd := &apiextensions.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "as.b.example"},
		Spec: apiextensions.CustomResourceDefinitionSpec{
			Group: "b.example", Version: "v1", Scope: "Namespaced", PreserveUnknownFields: &no,
			Names:      apiextensions.CustomResourceDefinitionNames{Plural: "as", Singular: "a", Kind: "A", ListKind: "AList"},
			Versions:   []apiextensions.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true}},
			Validation: &apiextensions.CustomResourceValidation{OpenAPIV3Schema: &internal},
			Conversion: &apiextensions.CustomResourceConversion{Strategy: apiextensions.NoneConverter},
		},
		Status: apiextensions.CustomResourceDefinitionStatus{StoredVersions: []string{"v1"}},
	}
	for _, e := range validation.ValidateCustomResourceDefinition(context.Background(), crd) {
		a.Problems = append(a.Problems, selfType.ReplaceAllString(e.Error(), "selfType"))
	}
	if len(a.Problems) > 0 {
		return a
	}
	s, err := schema.NewStructural(&internal)
	if err != nil {
		panic(err)
	}
	validator := schemacel.NewValidator(s, true, celconfig.PerCallLimit)
	for _, o := range q.Objects {
		recorder := &warnings{}
		ctx := warning.WithWarningRecorder(context.Background(), recorder)
		budget := o.Budget
		if budget == 0 {
			budget = celconfig.RuntimeCELCostBudget
		}
		newObject, oldObject := decode(o.New), decode(o.Old)
		var opts []schemacel.Option
		if oldObject != nil {
			correlated := common.NewCorrelatedObject(newObject, oldObject, &model.Structural{Structural: s})
			opts = append(opts, schemacel.WithRatcheting(correlated))
		}
		errs, remaining := validator.Validate(ctx, nil, s, newObject, oldObject, budget, opts...)
		f := finding{Remaining: remaining, Warnings: recorder.texts}
		for _, e := range errs {
			f.Errors = append(f.Errors, selfType.ReplaceAllString(e.Error(), "selfType"))
		}
		a.Findings = append(a.Findings, f)
	}
	return a
}

type warnings struct{ texts []string }

func (w *warnings) AddWarning(_, text string) {
	w.texts = append(w.texts, selfType.ReplaceAllString(text, "selfType"))
}

// show writes a value so that both implementations write it alike.
func show(v ref.Val) string {
	return showValue(v, types.DefaultTypeAdapter)
}
