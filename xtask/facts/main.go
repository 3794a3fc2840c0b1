// Facts reads the Go modules k8s.io/api, k8s.io/apiextensions-apiserver and k8s.io/apimachinery and prints, as JSON, what the OpenAPI schemas do
// not say: how lists and maps merge, defaults, which zero values are left out, Go types for messages, and protobuf
// field numbers. Only facts are taken, no prose.
package main

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
)

// Field is what is known of one field. Short names keep the table small.
type Field struct {
	ListType    string          `json:"lt,omitempty"`
	ListMapKeys []string        `json:"lk,omitempty"`
	MapType     string          `json:"mt,omitempty"`
	StructType  string          `json:"st,omitempty"`
	Strategy    string          `json:"ps,omitempty"`
	MergeKey    string          `json:"pk,omitempty"`
	Default     json.RawMessage `json:"d,omitempty"`
	GoType      string          `json:"go"`
	OmitZero    bool            `json:"oz,omitempty"`
	// A struct is left out when it is zero; without this Go writes {} or null.
	OmitZeroStruct bool   `json:"oy,omitempty"`
	Number         int    `json:"n,omitempty"`
	Wire           string `json:"w,omitempty"`
	// A list whose type has a name, and which is no message of its own all the same.
	Repeated bool `json:"r,omitempty"`
}

// Type is what is known of one struct.
type Type struct {
	StructType string           `json:"st,omitempty"`
	Fields     map[string]Field `json:"f"`
}

var packages = map[string]string{
	"core/v1": "", "apps/v1": "", "batch/v1": "", "discovery/v1": "", "events/v1": "", "coordination/v1": "",
	"rbac/v1": "", "scheduling/v1": "", "node/v1": "", "policy/v1": "", "autoscaling/v1": "",
	"authentication/v1": "", "authorization/v1": "", "autoscaling/v2": "", "networking/v1": "", "storage/v1": "",
	"certificates/v1": "", "admissionregistration/v1": "", "flowcontrol/v1": "", "resource/v1": "",
}

func main() {
	out := map[string]Type{}
	api := module("k8s.io/api")
	for dir := range packages {
		prefix := "io.k8s.api." + strings.ReplaceAll(dir, "/", ".") + "."
		read(filepath.Join(api, dir), filepath.Base(dir), prefix, out)
	}
	extensions := module("k8s.io/apiextensions-apiserver")
	prefix := "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1."
	read(filepath.Join(extensions, "pkg/apis/apiextensions/v1"), "v1", prefix, out)
	machinery := module("k8s.io/apimachinery")
	read(filepath.Join(machinery, "pkg/apis/meta/v1"), "v1", "io.k8s.apimachinery.pkg.apis.meta.v1.", out)
	aggregator := filepath.Join(module("k8s.io/kube-aggregator"), "pkg/apis/apiregistration/v1")
	read(aggregator, "v1", "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.", out)
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(out); err != nil {
		panic(err)
	}
}

func module(name string) string {
	dir, err := exec.Command("go", "list", "-mod=mod", "-m", "-f", "{{.Dir}}", name).Output()
	if err != nil {
		fmt.Fprintln(os.Stderr, "facts: cannot find module", name, err)
		os.Exit(1)
	}
	return strings.TrimSpace(string(dir))
}

func read(dir, pkg, prefix string, out map[string]Type) {
	set := token.NewFileSet()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		panic(err)
	}
	for _, name := range files {
		base := filepath.Base(name)
		if strings.HasSuffix(base, "_test.go") || strings.HasPrefix(base, "zz_") || strings.HasPrefix(base, "generated") {
			continue
		}
		file, err := parser.ParseFile(set, name, nil, parser.ParseComments)
		if err != nil {
			panic(err)
		}
		for _, decl := range file.Decls {
			gen, ok := decl.(*ast.GenDecl)
			if !ok || gen.Tok != token.TYPE {
				continue
			}
			for _, spec := range gen.Specs {
				ts := spec.(*ast.TypeSpec)
				st, ok := ts.Type.(*ast.StructType)
				if !ok {
					continue
				}
				doc := ts.Doc
				if doc == nil {
					doc = gen.Doc
				}
				t := Type{StructType: markers(doc)["structType"], Fields: map[string]Field{}}
				fields(st, pkg, t.Fields)
				if len(t.Fields) > 0 {
					out[prefix+ts.Name.Name] = t
				}
			}
		}
	}
}

func fields(st *ast.StructType, pkg string, out map[string]Field) {
	for _, f := range st.Fields.List {
		if f.Tag == nil {
			continue
		}
		tag := reflect.StructTag(strings.Trim(f.Tag.Value, "`"))
		parts := strings.Split(tag.Get("json"), ",")
		name := parts[0]
		goType := typeText(f.Type, pkg)
		if name == "" && len(f.Names) == 0 {
			// An inlined struct: its fields are found under its own name.
			fact := Field{GoType: goType}
			wire(&fact, tag)
			out["+inline:"+goType] = fact
			continue
		}
		if name == "" || name == "-" {
			continue
		}
		m := markers(f.Doc)
		fact := Field{
			ListType: m["listType"], MapType: m["mapType"], StructType: m["structType"],
			Strategy: tag.Get("patchStrategy"), MergeKey: tag.Get("patchMergeKey"), GoType: goType,
		}
		if keys := m["listMapKey"]; keys != "" {
			fact.ListMapKeys = strings.Split(keys, ",")
		}
		if d, ok := m["default"]; ok && json.Valid([]byte(d)) {
			fact.Default = json.RawMessage(d)
		}
		for _, option := range parts[1:] {
			if option == "omitempty" && !strings.HasPrefix(goType, "*") {
				fact.OmitZero = true
			}
			if option == "omitzero" {
				fact.OmitZeroStruct = true
			}
		}
		wire(&fact, tag)
		out[name] = fact
	}
}

func wire(fact *Field, tag reflect.StructTag) {
	if p := strings.Split(tag.Get("protobuf"), ","); len(p) > 1 {
		fact.Wire = p[0]
		isNamed := !strings.HasPrefix(fact.GoType, "[]") && !strings.HasPrefix(fact.GoType, "map[")
		fact.Repeated = len(p) > 2 && p[2] == "rep" && isNamed
		fmt.Sscan(p[1], &fact.Number)
	}
}

func markers(doc *ast.CommentGroup) map[string]string {
	m := map[string]string{}
	if doc == nil {
		return m
	}
	for _, c := range doc.List {
		text := strings.TrimSpace(strings.TrimPrefix(c.Text, "//"))
		if !strings.HasPrefix(text, "+") {
			continue
		}
		key, value, _ := strings.Cut(text[1:], "=")
		if key == "listMapKey" && m[key] != "" {
			value = m[key] + "," + value
		}
		m[key] = value
	}
	return m
}

func typeText(e ast.Expr, pkg string) string {
	switch t := e.(type) {
	case *ast.Ident:
		if ast.IsExported(t.Name) {
			return pkg + "." + t.Name
		}
		return t.Name
	case *ast.StarExpr:
		return "*" + typeText(t.X, pkg)
	case *ast.ArrayType:
		return "[]" + typeText(t.Elt, pkg)
	case *ast.MapType:
		return "map[" + typeText(t.Key, pkg) + "]" + typeText(t.Value, pkg)
	case *ast.SelectorExpr:
		name := typeText(t.X, pkg)
		if name == "metav1" || name == "corev1" {
			name = "v1"
		}
		return name + "." + t.Sel.Name
	}
	return "interface {}"
}
