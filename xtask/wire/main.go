// Wire prints objects as Kubernetes' own types encode them: one line of JSON for each, with its JSON and its protobuf.
// Every kind of the stable API comes several times, from empty to all fields set, filled by a fixed seed.
package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math/rand"
	"os"
	"reflect"
	"sort"
	"strings"
	"time"

	admissionregistration "k8s.io/api/admissionregistration/v1"
	apps "k8s.io/api/apps/v1"
	authentication "k8s.io/api/authentication/v1"
	authorization "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batch "k8s.io/api/batch/v1"
	certificates "k8s.io/api/certificates/v1"
	coordination "k8s.io/api/coordination/v1"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	events "k8s.io/api/events/v1"
	flowcontrol "k8s.io/api/flowcontrol/v1"
	networking "k8s.io/api/networking/v1"
	node "k8s.io/api/node/v1"
	policy "k8s.io/api/policy/v1"
	rbac "k8s.io/api/rbac/v1"
	resourceapi "k8s.io/api/resource/v1"
	scheduling "k8s.io/api/scheduling/v1"
	storage "k8s.io/api/storage/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/util/intstr"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// Texts that encoders get wrong: empty, escaped, beyond ASCII, longer than one byte of length tells.
var texts = []string{
	"", "a", "name", "with space", "quote\" and \\", "<html> & more", "line\nbreak\ttab\r", "caf\u00e9 \u4e16\u754c \U0001F600",
	"\u2028\u2029", "\u0001\u001f\u007f", strings.Repeat("long", 40),
}

type filler struct {
	random  *rand.Rand
	density float64
}

func (f *filler) set() bool { return f.random.Float64() < f.density }

func (f *filler) text() string { return texts[f.random.Intn(len(texts))] }

// Field by field; below a depth only little is set, so that recursive types end.
func (f *filler) fill(v reflect.Value, depth int) {
	switch at := v.Addr().Interface().(type) {
	case *meta.Time:
		if f.set() {
			*at = meta.NewTime(time.Unix(f.random.Int63n(4_000_000_000), 0).UTC())
		}
		return
	case *meta.MicroTime:
		if f.set() {
			*at = meta.NewMicroTime(time.Unix(f.random.Int63n(4_000_000_000), f.random.Int63n(1_000_000)*1000).UTC())
		}
		return
	case *resource.Quantity:
		all := []string{"0", "100m", "1", "1500m", "2Gi", "128974848", "1e3", "123456789012345678901", "-5"}
		*at = resource.MustParse(all[f.random.Intn(len(all))])
		at.String()
		return
	case *intstr.IntOrString:
		if f.random.Intn(2) == 0 {
			*at = intstr.FromInt32(f.random.Int31n(70000) - 100)
		} else {
			*at = intstr.FromString(f.text())
		}
		return
	case *runtime.RawExtension:
		if f.set() {
			at.Raw = []byte(`{"apiVersion":"v1","kind":"Pod","list":[1,{"a":"}]\"b"}],"n":-1.5}`)
		}
		return
	case *meta.FieldsV1:
		at.Raw = []byte(`{"f:metadata":{"f:labels":{".":{},"f:a/b":{}}},"f:spec":{"k:{\"name\":\"c\"}":{}}}`)
		return
	case *meta.TypeMeta:
		return
	case *apiextensions.JSON:
		at.Raw = []byte(`{"a":[1,"two",null]}`)
		return
	case *apiextensions.JSONSchemaPropsOrBool:
		at.Allows = f.random.Intn(2) == 0
		if f.random.Intn(2) == 0 {
			at.Allows, at.Schema = true, f.schema(depth+1)
		}
		return
	case *apiextensions.JSONSchemaPropsOrArray:
		if f.random.Intn(2) == 0 {
			at.Schema = f.schema(depth + 1)
		} else {
			at.JSONSchemas = []apiextensions.JSONSchemaProps{*f.schema(depth + 1), *f.schema(depth + 1)}
		}
		return
	case *apiextensions.JSONSchemaProps:
		*at = *f.schema(depth)
		return
	}
	switch v.Kind() {
	case reflect.String:
		if f.set() {
			v.SetString(f.text())
		}
	case reflect.Bool:
		v.SetBool(f.set() && f.random.Intn(2) == 0)
	case reflect.Int32:
		if f.set() {
			v.SetInt(int64(int32(f.random.Uint32()) >> f.random.Intn(32)))
		}
	case reflect.Int64:
		if f.set() {
			v.SetInt(int64(f.random.Uint64()) >> f.random.Intn(64))
		}
	case reflect.Ptr:
		if f.set() && depth < 14 {
			v.Set(reflect.New(v.Type().Elem()))
			f.fill(v.Elem(), depth+1)
			// JSON tells no pointer to nothing from no pointer.
			zero, ok := v.Interface().(interface{ IsZero() bool })
			raw, isRaw := v.Interface().(*runtime.RawExtension)
			if ok && zero.IsZero() && strings.HasSuffix(v.Type().Elem().Name(), "Time") || isRaw && raw.Raw == nil {
				v.SetZero()
			}
		}
	case reflect.Slice:
		if !f.set() || depth >= 14 {
			return
		}
		n := 1 + f.random.Intn(2)
		if v.Type().Elem().Kind() == reflect.Uint8 {
			raw := make([]byte, n*7)
			f.random.Read(raw)
			v.SetBytes(raw)
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			f.fill(v.Index(i), depth+1)
		}
	case reflect.Map:
		if !f.set() || depth >= 14 {
			return
		}
		v.Set(reflect.MakeMap(v.Type()))
		for range 1 + f.random.Intn(4) {
			key := reflect.New(v.Type().Key()).Elem()
			key.SetString(f.text())
			value := reflect.New(v.Type().Elem()).Elem()
			f.fill(value, depth+1)
			if value.Kind() == reflect.Slice && value.IsNil() {
				continue
			}
			v.SetMapIndex(key, value)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				f.fill(v.Field(i), depth+1)
			}
		}
	default:
		panic("no value for " + v.Type().String())
	}
}

// A schema, which is inside itself in a dozen ways: only some of them are taken at a time, and fewer the deeper it is.
func (f *filler) schema(depth int) *apiextensions.JSONSchemaProps {
	inner := filler{f.random, f.density / 3}
	at := &apiextensions.JSONSchemaProps{}
	v := reflect.ValueOf(at).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		plain := false
		switch v.Field(i).Kind() {
		case reflect.String, reflect.Bool:
			plain = true
		case reflect.Ptr:
			kind := v.Field(i).Type().Elem().Kind()
			plain = kind == reflect.String || kind == reflect.Int64 || kind == reflect.Bool
			if kind == reflect.Float64 && f.set() {
				number := float64(f.random.Intn(1000)) / 8
				v.Field(i).Set(reflect.ValueOf(&number))
			}
		}
		switch {
		case name == "Dependencies":
		case plain:
			f.fill(v.Field(i), depth+1)
		case depth < 9 && v.Field(i).Kind() != reflect.Ptr || depth < 9 && v.Field(i).Type().Elem().Kind() == reflect.Struct:
			inner.fill(v.Field(i), depth+1)
		}
	}
	return at
}

type pair struct {
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"`
	JSON       json.RawMessage `json:"json"`
	Protobuf   string          `json:"protobuf"`
}

func main() {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		admissionregistration.AddToScheme, apps.AddToScheme, authentication.AddToScheme, authorization.AddToScheme,
		autoscalingv1.AddToScheme, autoscalingv2.AddToScheme, batch.AddToScheme, certificates.AddToScheme,
		coordination.AddToScheme, core.AddToScheme, discovery.AddToScheme, events.AddToScheme, flowcontrol.AddToScheme,
		networking.AddToScheme, node.AddToScheme, policy.AddToScheme, rbac.AddToScheme, resourceapi.AddToScheme,
		scheduling.AddToScheme, storage.AddToScheme, meta.AddMetaToScheme,
		apiextensions.AddToScheme, apiregistration.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	var kinds []schema.GroupVersionKind
	for kind := range scheme.AllKnownTypes() {
		options := strings.HasSuffix(kind.Kind, "Options") && !(kind.Kind == "DeleteOptions" && kind.Group == "")
		if kind.Version == "__internal" || options || kind.Kind == "WatchEvent" || strings.HasPrefix(kind.Kind, "Table") {
			continue
		}
		if kind.Group != "" && (kind.Kind == "DeleteOptions" || kind.Kind == "Status") {
			continue
		}
		kinds = append(kinds, kind)
	}
	sort.Slice(kinds, func(i, j int) bool { return kinds[i].String() < kinds[j].String() })
	serializer := protobuf.NewSerializer(scheme, scheme)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for index, kind := range kinds {
		densities := []float64{0, 0.15, 0.5, 0.5, 1}
		if strings.HasSuffix(kind.Kind, "List") {
			densities = []float64{0, 0.4}
		}
		for round, density := range densities {
			fill := filler{rand.New(rand.NewSource(int64(index*100 + round))), density}
			object, err := scheme.New(kind)
			if err != nil {
				panic(err)
			}
			fill.fill(reflect.ValueOf(object).Elem(), 0)
			object.GetObjectKind().SetGroupVersionKind(kind)
			text, err := json.Marshal(object)
			if err != nil {
				panic(err)
			}
			var raw bytes.Buffer
			if err := serializer.Encode(object, &raw); err != nil {
				panic(err)
			}
			version, name := kind.ToAPIVersionAndKind()
			line, err := json.Marshal(pair{version, name, text, base64.StdEncoding.EncodeToString(raw.Bytes())})
			if err != nil {
				panic(err)
			}
			out.Write(append(line, '\n'))
		}
	}
}
