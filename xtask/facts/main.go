// Facts reads the Go modules k8s.io/api, k8s.io/apiextensions-apiserver and k8s.io/apimachinery and prints, as JSON, what the OpenAPI schemas do
// not say: how lists and maps merge, defaults, which values there are, which fields are always there and which zero values
// are left out, Go types for messages, and protobuf field numbers. Only facts are taken, no prose.
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
	"slices"
	"strconv"
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
	// All values that there are of its type.
	Enum []string `json:"en,omitempty"`
	// The type of which those are, until all types are known.
	enumOf string
}

// Type is what is known of one struct.
type Type struct {
	StructType string           `json:"st,omitempty"`
	Fields     map[string]Field `json:"f"`
	// Fields that are always there, in their order; of embedded structs, those as a whole.
	Required []string `json:"rq,omitempty"`
}

// enums are the values of types that have no others, by the full names of the types.
var enums = map[string][]string{}

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
	for of, names := range others {
		for _, name := range names {
			if text, ok := texts[name]; ok {
				value(of, text)
			}
		}
	}
	for _, t := range out {
		for name, field := range t.Fields {
			if values := enums[field.enumOf]; isEnum[field.enumOf] && len(values) > 0 {
				field.Enum = values
				t.Fields[name] = field
			}
		}
	}
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
		imports := map[string]string{}
		for _, i := range file.Imports {
			path := strings.Trim(i.Path.Value, `"`)
			name := filepath.Base(path)
			if i.Name != nil {
				name = i.Name.Name
			}
			imports[name] = definitions(path)
		}
		for _, decl := range file.Decls {
			gen, ok := decl.(*ast.GenDecl)
			if ok && gen.Tok == token.CONST {
				constants(gen, prefix, imports)
			}
			if !ok || gen.Tok != token.TYPE {
				continue
			}
			for _, spec := range gen.Specs {
				ts := spec.(*ast.TypeSpec)
				doc := ts.Doc
				if doc == nil {
					doc = gen.Doc
				}
				if _, ok := markers(doc)["enum"]; ok {
					isEnum[prefix+ts.Name.Name] = true
				}
				st, ok := ts.Type.(*ast.StructType)
				if !ok {
					continue
				}
				t := Type{StructType: markers(doc)["structType"], Fields: map[string]Field{}}
				t.Required = fields(st, pkg, prefix, imports, t.Fields)
				if len(t.Fields) > 0 {
					out[prefix+ts.Name.Name] = t
				}
			}
		}
	}
}

// definitions is how the names of a package's types begin.
func definitions(path string) string {
	parts := strings.Split(path, "/")
	host := strings.Split(parts[0], ".")
	slices.Reverse(host)
	return strings.Join(append(host, parts[1:]...), ".") + "."
}

// isEnum tells which types have no values but their constants.
var isEnum = map[string]bool{}

// texts are the constants of all packages, and others those that are one of another package, by the type that they make of it.
var texts, others = map[string]string{}, map[string][]string{}

// value adds one to those of a type.
func value(of, text string) {
	if !slices.Contains(enums[of], text) {
		enums[of] = append(enums[of], text)
		slices.Sort(enums[of])
	}
}

// constants takes up constants that have a type of their package.
func constants(gen *ast.GenDecl, prefix string, imports map[string]string) {
	for _, spec := range gen.Specs {
		one := spec.(*ast.ValueSpec)
		if len(one.Values) != 1 {
			continue
		}
		given := one.Values[0]
		of, ok := one.Type.(*ast.Ident)
		if call, is := given.(*ast.CallExpr); is && len(call.Args) == 1 {
			// The type stands before the value.
			of, ok = call.Fun.(*ast.Ident)
			given = call.Args[0]
		}
		if !ok {
			continue
		}
		if _, is := given.(*ast.SelectorExpr); is {
			name := typeName(given, prefix, imports)
			others[prefix+of.Name] = append(others[prefix+of.Name], name)
			continue
		}
		literal, ok := given.(*ast.BasicLit)
		if !ok || literal.Kind != token.STRING {
			continue
		}
		text, err := strconv.Unquote(literal.Value)
		if err != nil {
			panic(err)
		}
		texts[prefix+one.Names[0].Name] = text
		value(prefix+of.Name, text)
	}
}

// typeName is the full name of the type that a field, or each of its items, has.
func typeName(e ast.Expr, prefix string, imports map[string]string) string {
	switch t := e.(type) {
	case *ast.Ident:
		return prefix + t.Name
	case *ast.StarExpr:
		return typeName(t.X, prefix, imports)
	case *ast.ArrayType:
		return typeName(t.Elt, prefix, imports)
	case *ast.SelectorExpr:
		if x, ok := t.X.(*ast.Ident); ok {
			return imports[x.Name] + t.Sel.Name
		}
	}
	return ""
}

func fields(st *ast.StructType, pkg, prefix string, imports map[string]string, out map[string]Field) []string {
	var required []string
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
			required = append(required, "+inline:"+goType)
			continue
		}
		if name == "" || name == "-" {
			continue
		}
		m := markers(f.Doc)
		fact := Field{
			ListType: m["listType"], MapType: m["mapType"], StructType: m["structType"],
			Strategy: tag.Get("patchStrategy"), MergeKey: tag.Get("patchMergeKey"), GoType: goType,
			enumOf: typeName(f.Type, prefix, imports),
		}
		_, isRequired := m["required"]
		_, isOptional := m["optional"]
		if isRequired || !isOptional && !slices.Contains(parts[1:], "omitempty") {
			required = append(required, name)
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
	return required
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
