package main

import (
	"bufio"
	"encoding/json"
	"math/rand"
	"os"
	"regexp"
	"strings"
)

// What random expressions are about.
const (
	schemaText = `{"type":"object","properties":{
"i":{"type":"integer"},"n":{"type":"number"},"s":{"type":"string","maxLength":20},"u":{"type":"string"},"b":{"type":"boolean"},
"d":{"type":"string","format":"duration"},"t":{"type":"string","format":"date-time"},"y":{"type":"string","format":"byte"},
"x":{"x-kubernetes-int-or-string":true},
"li":{"type":"array","maxItems":5,"items":{"type":"integer"}},"ls":{"type":"array","items":{"type":"string","maxLength":9}},
"set":{"type":"array","x-kubernetes-list-type":"set","maxItems":4,"items":{"type":"string"}},
"ml":{"type":"array","maxItems":6,"x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["k"],"items":{"type":"object","required":["k"],"properties":{"k":{"type":"string","maxLength":5},"v":{"type":"integer"}}}},
"m":{"type":"object","maxProperties":3,"additionalProperties":{"type":"string","maxLength":7}},"mi":{"type":"object","additionalProperties":{"type":"integer"}},
"o":{"type":"object","properties":{"p":{"type":"string"},"q":{"type":"integer"}}}}}`
	selfText = `{"i":5,"n":2.5,"s":"hello","u":"a,b","b":true,"d":"1h","t":"2020-01-02T03:04:05Z","y":"aGk=","x":"7","li":[3,1,2],"ls":["a","bb"],"set":["x","y"],"ml":[{"k":"a","v":1},{"k":"b","v":2}],"m":{"k":"v","l":"w"},"mi":{"k":1},"o":{"p":"P"}}`
	varsText = `{"object":{"metadata":{"name":"n","labels":{"a":"b"}},"spec":{"replicas":3,"list":[1,"a",null],"f":1.5,"on":true}},"arr":[3,1,2],"str":"text","num":5,"nil":null}`
)

type generator struct {
	*rand.Rand
	schema bool
	locals []string
	depth  int
}

func (g *generator) pick(from ...string) string { return from[g.Intn(len(from))] }

func (g *generator) local() (string, bool) {
	if len(g.locals) == 0 || g.Intn(3) > 0 {
		return "", false
	}
	return g.locals[g.Intn(len(g.locals))], true
}

func (g *generator) deeper(leaf func() string, inner func() string) string {
	if g.depth <= 0 || g.Intn(4) == 0 {
		return leaf()
	}
	g.depth--
	out := inner()
	g.depth++
	return out
}

func (g *generator) boolean() string {
	return g.deeper(func() string {
		if g.schema {
			return g.pick("true", "false", "self.b", "has(self.i)", "has(self.o.q)", "self.i > 3", "self.s == 'hello'")
		}
		return g.pick("true", "false", "object.spec.on", "has(object.spec.x)", "num > 3", "str == 'text'", "nil == null")
	}, func() string {
		switch g.Intn(12) {
		case 0:
			return g.boolean() + " && " + g.boolean()
		case 1:
			return g.boolean() + " || " + g.boolean()
		case 2:
			return "!(" + g.boolean() + ")"
		case 3:
			return g.integer() + g.pick(" < ", " <= ", " > ", " >= ", " == ", " != ") + g.integer()
		case 4:
			return g.str() + g.pick(" < ", " == ", " != ", " >= ") + g.str()
		case 5:
			return g.str() + g.pick(".startsWith(", ".endsWith(", ".contains(", ".matches(") + g.pick("'a'", "'[a-z]+'", g.str()) + ")"
		case 6:
			return g.macro(g.pick("all", "exists", "exists_one"), g.boolean)
		case 7:
			return g.pick(g.integer(), g.str()) + " in " + g.list()
		case 8:
			return g.list() + " == " + g.list()
		case 9:
			return "(" + g.boolean() + " ? " + g.boolean() + " : " + g.boolean() + ")"
		case 10:
			return g.list() + g.pick(".isSorted()", ".size() > 1", ".exists(i, v, v == v)")
		default:
			return g.str() + " in " + g.mapping()
		}
	})
}

func (g *generator) integer() string {
	return g.deeper(func() string {
		if l, ok := g.local(); ok {
			return l
		}
		if g.schema {
			return g.pick("0", "1", "2", "-3", "self.i", "self.mi['k']", "self.o.q", "self.li[0]", "self.ml[0].v", "int(self.x)")
		}
		return g.pick("0", "1", "7", "-3", "num", "arr[0]", "object.spec.replicas", "9223372036854775807", "arr[5]")
	}, func() string {
		switch g.Intn(8) {
		case 0, 1:
			return "(" + g.integer() + g.pick(" + ", " - ", " * ", " / ", " % ") + g.integer() + ")"
		case 2:
			return "size(" + g.pick(g.list(), g.str(), g.mapping()) + ")"
		case 3:
			return g.list() + ".size()"
		case 4:
			return "(" + g.boolean() + " ? " + g.integer() + " : " + g.integer() + ")"
		case 5:
			return g.list() + "[" + g.integer() + "]"
		case 6:
			return g.str() + ".indexOf(" + g.str() + ")"
		default:
			return g.pick("int("+g.str()+")", "[1, 2, "+g.integer()+"].max()", g.list()+".sum()", "{'a': "+g.integer()+"}.a", "[?optional.of("+g.integer()+")][0]", "{'z': 1}.?z.orValue("+g.integer()+")")
		}
	})
}

func (g *generator) str() string {
	return g.deeper(func() string {
		if l, ok := g.local(); ok {
			return l
		}
		if g.schema {
			return g.pick("''", "'a'", "'hello'", "self.s", "self.u", "self.o.p", "self.m['k']", "self.ls[1]", "self.ml[1].k", "self.x")
		}
		return g.pick("''", "'a'", "'é'", "str", "object.metadata.name", "object.metadata.labels['a']", "object.spec.list[1]")
	}, func() string {
		switch g.Intn(7) {
		case 0, 1:
			return "(" + g.str() + " + " + g.str() + ")"
		case 2:
			return "string(" + g.integer() + ")"
		case 3:
			return g.str() + g.pick(".lowerAscii()", ".upperAscii()", ".trim()", ".substring(0)", ".charAt(0)", ".replace('a', 'bb')")
		case 4:
			return "(" + g.boolean() + " ? " + g.str() + " : " + g.str() + ")"
		case 5:
			return "[" + g.str() + ", 'b'].join(" + g.str() + ")"
		default:
			return "'%s-%d'.format([" + g.str() + ", " + g.integer() + "])"
		}
	})
}

func (g *generator) list() string {
	return g.deeper(func() string {
		if g.schema {
			return g.pick("[]", "[1, 2]", "['a', 'b']", "self.li", "self.ls", "self.set", "self.ml", "self.m.map(k, k)")
		}
		return g.pick("[]", "[1, 2]", "['a']", "arr", "object.spec.list", "[dyn(1)]")
	}, func() string {
		switch g.Intn(8) {
		case 0:
			return "[" + g.integer() + ", " + g.integer() + "]"
		case 1:
			return "[" + g.str() + "]"
		case 2:
			return "(" + g.list() + " + " + g.list() + ")"
		case 3:
			return g.macro("map", g.integer)
		case 4:
			return g.macro("map", g.str)
		case 5:
			return g.macro("filter", g.boolean)
		case 6:
			return g.list() + g.pick(".distinct()", ".sort()", ".reverse()", ".slice(0, 1)", ".flatten()", ".transformList(i, v, v)", ".transformList(i, v, i > 0, [v])")
		default:
			return "(" + g.boolean() + " ? " + g.list() + " : " + g.list() + ")"
		}
	})
}

func (g *generator) mapping() string {
	if g.schema {
		return g.pick("{}", "{'a': 1}", "self.m", "self.mi", "self.o", "{"+g.str()+": "+g.integer()+"}", "self.mi.transformMap(k, v, v + 1)")
	}
	return g.pick("{}", "{'a': 1}", "object.metadata.labels", "object", "{"+g.str()+": "+g.integer()+"}", "{'k': "+g.str()+"}")
}

func (g *generator) macro(name string, body func() string) string {
	list := g.pick(g.list(), g.list(), g.mapping())
	v := g.pick("x", "y", "z")
	g.locals = append(g.locals, v)
	out := list + "." + name + "(" + v + ", " + body() + ")"
	g.locals = g.locals[:len(g.locals)-1]
	return out
}

var words = regexp.MustCompile(`'[^']*'|[A-Za-z_]+|[0-9.]+|==|!=|<=|>=|&&|\|\||\s+|.`)

// spoilt is an expression with a mistake in it.
func (g *generator) spoilt(text string) string {
	tokens := words.FindAllString(text, -1)
	for n := 1 + g.Intn(2); n > 0 && len(tokens) > 0; n-- {
		at := g.Intn(len(tokens))
		other := g.pick("(", ")", "[", "]", "{", "}", ",", ".", "?", ":", "+", "-", "!", "*", "==", "&&", "||", "in", "a", "1", "'s'", "1.5", "2u", "true", "null", ".?", "[?", "#", "=", "'", "`x`", " ", "\n")
		switch g.Intn(4) {
		case 0:
			tokens = append(tokens[:at], tokens[at+1:]...)
		case 1:
			tokens[at] = other
		case 2:
			tokens = append(tokens[:at], append([]string{other}, tokens[at:]...)...)
		default:
			if at+1 < len(tokens) {
				tokens[at], tokens[at+1] = tokens[at+1], tokens[at]
			}
		}
	}
	return strings.Join(tokens, "")
}

func generate(n int, seed int64) {
	g := &generator{Rand: rand.New(rand.NewSource(seed))}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	seen := map[string]bool{}
	for len(seen) < n {
		g.schema = g.Intn(2) == 0
		g.depth = 1 + g.Intn(4)
		g.locals = nil
		text := g.pick(g.boolean(), g.boolean(), g.integer(), g.str(), g.list())
		if g.Intn(3) == 0 {
			text = g.spoilt(text)
		}
		if seen[text] || len(text) > 300 {
			continue
		}
		seen[text] = true
		q := question{Expr: text}
		if g.schema {
			q.Schema, q.Self = json.RawMessage(schemaText), json.RawMessage(selfText)
		} else {
			q.Vars = json.RawMessage(varsText)
		}
		write(out, q)
	}
}
