package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	apiservercel "k8s.io/apiserver/pkg/cel"
)

func quote(s string) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s)
	return strings.TrimSuffix(b.String(), "\n")
}

func showValue(v ref.Val, adapter types.Adapter) string {
	switch v := v.(type) {
	case types.Null:
		return "null"
	case types.Bool:
		return strconv.FormatBool(bool(v))
	case types.Int:
		return strconv.FormatInt(int64(v), 10)
	case types.Uint:
		return strconv.FormatUint(uint64(v), 10) + "u"
	case types.Double:
		return "double(" + strconv.FormatFloat(float64(v), 'g', -1, 64) + ")"
	case types.String:
		return quote(string(v))
	case types.Bytes:
		return "bytes(" + hex.EncodeToString([]byte(v)) + ")"
	case types.Duration:
		return fmt.Sprintf("duration(%d)", int64(v.Duration))
	case types.Timestamp:
		return "timestamp(" + v.Time.Format(time.RFC3339Nano) + ")"
	case *types.Optional:
		if !v.HasValue() {
			return "optional.none()"
		}
		return "optional(" + showValue(v.GetValue(), adapter) + ")"
	case *types.Type:
		return "type(" + v.TypeName() + ")"
	case apiservercel.Quantity:
		return "quantity(" + v.Quantity.String() + ")"
	case *apiservercel.Quantity:
		return "quantity(" + v.Quantity.String() + ")"
	case apiservercel.IP:
		return "ip(" + v.Addr.String() + ")"
	case apiservercel.CIDR:
		return "cidr(" + v.Prefix.String() + ")"
	case apiservercel.URL:
		return "url(" + v.URL.String() + ")"
	case apiservercel.Semver:
		return fmt.Sprintf("semver(%d.%d.%d)", v.Major, v.Minor, v.Patch)
	case apiservercel.Format:
		return "format(" + v.Name + ")"
	}
	if types.IsError(v) {
		return fmt.Sprintf("error(%v)", v)
	}
	if l, ok := v.(traits.Lister); ok {
		parts := []string{}
		n := int(l.Size().(types.Int))
		for i := 0; i < n; i++ {
			parts = append(parts, showValue(l.Get(types.Int(i)), adapter))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	if m, ok := v.(traits.Mapper); ok {
		parts := []string{}
		for it := m.Iterator(); it.HasNext() == types.True; {
			k := it.Next()
			if k == nil {
				break
			}
			parts = append(parts, showValue(k, adapter)+": "+showValue(m.Get(k), adapter))
		}
		sort.Strings(parts)
		return "{" + strings.Join(parts, ", ") + "}"
	}
	return v.Type().TypeName()
}
