package main

import (
	"fmt"
	"sort"

	"github.com/google/cel-go/checker"
	_ "k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/cel/environment"
)

func main() {
	env := environment.MustBaseEnvSet(version.MajorMinor(1, 36)).StoredExpressionsEnv()
	names := []string{}
	for n := range env.Functions() {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		f := env.Functions()[n]
		for _, o := range f.OverloadDecls() {
			args := ""
			for i, a := range o.ArgTypes() {
				if i > 0 {
					args += ", "
				}
				args += checker.FormatCELType(a)
			}
			m := "global"
			if o.IsMemberFunction() {
				m = "member"
			}
			fmt.Printf("%s %s %s (%s) -> %s\n", n, o.ID(), m, args, checker.FormatCELType(o.ResultType()))
		}
	}
	for _, v := range env.Variables() {
		fmt.Printf("var %s %s\n", v.Name(), checker.FormatCELType(v.Type()))
	}
	for _, m := range env.Macros() {
		fmt.Printf("macro %s\n", m.MacroKey())
	}
	fmt.Println(env.Libraries())
}
