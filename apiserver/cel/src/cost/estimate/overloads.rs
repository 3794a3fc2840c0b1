//! What calls of the library can cost.

use super::*;

impl Estimator<'_> {
    pub(super) fn overload(
        &mut self,
        expr: &Expr,
        function: &str,
        overload: &str,
        target: Option<&Arg<'_>>,
        args: &[Arg<'_>],
        costs: &[Range],
    ) -> CallCost {
        let of_args = costs.iter().fold(Range::fixed(0), |sum, c| sum.plus(*c));
        let special = self
            .of_lists(overload, target, args)
            .or_else(|| self.of_kubernetes(function, overload, target, args))
            .or_else(|| self.of_equality(function, args));
        if let Some((cost, size)) = special {
            return (cost.plus(of_args), size);
        }
        let unknown = |arg: &Arg<'_>| arg.size.unwrap_or(Range::UNKNOWN);
        match (overload, target, args) {
            ("string_format", Some(target), _) => {
                (unknown(target).times(TRAVERSAL).plus(of_args), None)
            }
            ("string_to_bytes", _, [arg]) => {
                let n = unknown(arg);
                let size = Range {
                    min: n.min,
                    max: n.max.wrapping_mul(4),
                };
                (n.times(TRAVERSAL).plus(of_args), Some(size))
            }
            ("bytes_to_string", _, [arg]) => {
                let n = unknown(arg);
                let size = Range {
                    min: n.min / 4,
                    max: n.max,
                };
                (n.times(TRAVERSAL).plus(of_args), Some(size))
            }
            ("strings_quote", _, [arg]) => {
                let n = unknown(arg);
                let size = Range {
                    min: n.min.wrapping_add(2),
                    max: n.max.wrapping_mul(2).wrapping_add(2),
                };
                (n.times(TRAVERSAL).plus(of_args), Some(size))
            }
            ("starts_with_string" | "ends_with_string", _, [arg]) => {
                (unknown(arg).times(TRAVERSAL).plus(of_args), None)
            }
            ("in_list", _, [_, list]) => (unknown(list).times(1.0).plus(of_args), None),
            ("matches_string", Some(target), [pattern]) => {
                let cost = matching(unknown(target), unknown(pattern));
                (cost.plus(of_args), None)
            }
            ("contains_string", Some(target), [part]) => {
                let text = unknown(target).times(TRAVERSAL);
                let cost = text.multiplied(unknown(part).times(TRAVERSAL));
                (cost.plus(of_args), None)
            }
            ("logical_or" | "logical_and", _, _) => {
                let [left, right] = costs else {
                    return (of_args, None);
                };
                let cost = Range {
                    min: left.min,
                    max: left.plus(*right).max,
                };
                (cost, None)
            }
            ("conditional", _, [_, yes, no]) => {
                let size = unknown(yes).union(unknown(no));
                let entries = self.entry_sizes(yes.expr).zip(self.entry_sizes(no.expr));
                if let Some((a, b)) = entries {
                    self.entries.insert(expr.id, a.union(b));
                }
                let cost = costs[0].plus(costs[1].union(costs[2]));
                (cost, Some(size))
            }
            ("add_string" | "add_bytes" | "add_list", _, [left, right]) => {
                let size = unknown(left).plus(unknown(right));
                let entries = self
                    .entry_sizes(left.expr)
                    .zip(self.entry_sizes(right.expr));
                if let Some((a, b)) = entries {
                    self.entries.insert(expr.id, a.union(b));
                }
                let cost = if overload == "add_list" {
                    ONE
                } else {
                    size.times(TRAVERSAL)
                };
                (cost.plus(of_args), Some(size))
            }
            (
                "less_string"
                | "greater_string"
                | "less_equals_string"
                | "greater_equals_string"
                | "less_bytes"
                | "greater_bytes"
                | "less_equals_bytes"
                | "greater_equals_bytes"
                | "equals"
                | "not_equals",
                _,
                [left, right],
            ) => {
                let max = unknown(left).max.min(unknown(right).max);
                let compared = Range {
                    min: u64::from(max > 0),
                    max,
                };
                (compared.times(TRAVERSAL).plus(of_args), None)
            }
            _ => (ONE.plus(of_args), None),
        }
    }

    /// Lists and sets whose costs go by the signature.
    pub(super) fn of_lists(
        &self,
        overload: &str,
        target: Option<&Arg<'_>>,
        args: &[Arg<'_>],
    ) -> Option<CallCost> {
        let allocating = |factor: f64, size: Range| {
            let cost = size.times(factor).plus(ONE).plus(Range::fixed(LIST));
            Some((cost, Some(size)))
        };
        let sorted = |list: Range, is_text: bool| {
            let factor = if is_text { 2.0 + TRAVERSAL } else { 2.0 };
            allocating(factor, list.multiplied(list))
        };
        match (overload, target, args) {
            ("list_slice", Some(list), [from, to]) => {
                let end = int_value(to.expr, self.arg_size(list).max);
                let n = end.wrapping_sub(int_value(from.expr, 0));
                allocating(1.0, Range::fixed(n))
            }
            ("lists_range", None, [n]) => {
                allocating(1.0, Range::fixed(int_value(n.expr, u64::MAX)))
            }
            ("list_reverse", Some(list), []) => allocating(1.0, self.arg_size(list)),
            ("list_flatten" | "list_flatten_int", Some(list), [] | [_]) => {
                let depth = args.first().map_or(1, |d| int_value(d.expr, u64::MAX));
                allocating(crate::number::of_uint(depth), self.arg_size(list))
            }
            ("list_distinct", Some(list), []) => sorted(self.arg_size(list), false),
            (
                "list_sets_contains_list"
                | "list_sets_intersects_list"
                | "list_sets_equivalent_list",
                _,
                [a, b],
            ) => {
                let factor = if overload == "list_sets_equivalent_list" {
                    2.0
                } else {
                    1.0
                };
                let pairs = self.arg_size(a).multiplied(self.arg_size(b));
                Some((pairs.times(factor).plus(ONE), None))
            }
            _ => {
                let (item, node) = match (
                    overload.strip_suffix("_sortByAssociatedKeys"),
                    overload.strip_suffix("_sort"),
                ) {
                    (Some(item), _) => (item, args.first()?),
                    (_, Some(item)) => (item, target?),
                    _ => return None,
                };
                sorted(
                    self.arg_size(node),
                    matches!(item, "list_string" | "list_bytes"),
                )
            }
        }
    }

    /// Kubernetes' library, by the function's name.
    pub(super) fn of_kubernetes(
        &self,
        function: &str,
        overload: &str,
        target: Option<&Arg<'_>>,
        args: &[Arg<'_>],
    ) -> Option<CallCost> {
        let plain = |cost: Range| Some((cost, None));
        let traversed = |arg: &Arg<'_>, factor: f64| self.arg_size(arg).times(factor * TRAVERSAL);
        match function {
            "check" => plain(Range::fixed(CHECK_COST)),
            "serviceAccount" | "path" | "group" | "resource" | "subresource" | "namespace"
            | "name" | "allowed" | "reason" | "error" | "errored" => plain(ONE),
            "fieldSelector" | "labelSelector" => match args {
                [arg] => plain(selector(self.arg_size(arg))),
                _ => None,
            },
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => {
                plain(self.scan(target?))
            }
            "url" | "jsonpatch.escapeKey" => match args {
                [arg] => Some((traversed(arg, 1.0), Some(self.arg_size(arg)))),
                _ => None,
            },
            "lowerAscii" | "upperAscii" | "substring" | "trim" => {
                Some((traversed(target?, 1.0), Some(self.arg_size(target?))))
            }
            "replace" => self.replace(target?, args),
            "split" => {
                let n = self.arg_size(target?);
                let literal = args.get(1).map(|a| &a.expr.kind);
                let max = match literal {
                    Some(ExprKind::Literal(Literal::Int(i))) => u64::from_ne_bytes(i.to_ne_bytes()),
                    _ => n.max,
                };
                let size = Range { min: 0, max };
                Some((n.times(2.0 * TRAVERSAL), Some(size)))
            }
            "join" => Some(self.join(target?, args)),
            "find" | "findAll" => {
                let (text, pattern) = (self.arg_size(target?), self.arg_size(args.first()?));
                let size = Range {
                    min: 0,
                    max: text.max,
                };
                Some((matching(text, pattern), Some(size)))
            }
            "ip" if overload == "cidr_ip" => plain(ONE),
            "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver"
            | "isSemver" => plain(traversed(args.first()?, 1.0)),
            "ip.isCanonical" => plain(traversed(args.first()?, 2.0)),
            "containsIP" | "containsCIDR" => {
                let bytes = Range { min: 4, max: 16 };
                let mut cost = bytes.plus(bytes).times(TRAVERSAL);
                if function == "containsCIDR" {
                    cost = cost.plus(bytes.times(TRAVERSAL)).plus(ONE);
                }
                if overload.ends_with("_string") {
                    cost = cost.plus(traversed(args.first()?, 1.0));
                }
                plain(cost)
            }
            "validate" => {
                let text = self.arg_size(args.first()?).times(TRAVERSAL);
                plain(text.times(FORMAT_PATTERN_MAX * PATTERN))
            }
            "masked"
            | "prefixLength"
            | "family"
            | "isUnspecified"
            | "isLoopback"
            | "isLinkLocalMulticast"
            | "isLinkLocalUnicast"
            | "isGlobalUnicast"
            | "format.named"
            | "sign"
            | "asInteger"
            | "isInteger"
            | "asApproximateFloat"
            | "isGreaterThan"
            | "isLessThan"
            | "compareTo"
            | "add"
            | "sub"
            | "major"
            | "minor"
            | "patch"
            | "getScheme"
            | "getHostname"
            | "getHost"
            | "getPort"
            | "getEscapedPath"
            | "getQuery" => plain(ONE),
            _ => None,
        }
    }

    /// The item's type and size of a list.
    fn items(&self, list: &Arg<'_>) -> Option<(Type, Range)> {
        let item = self
            .checked
            .type_of(list.expr)
            .parameters()
            .first()
            .map(|t| (*t).clone())?;
        let mut path = list.path.clone();
        if !path.is_empty() {
            path.push(Rc::from("@items"));
        }
        Some((item, self.path_size(&path)))
    }

    /// One look at each item of a list or code point of a text.
    fn scan(&self, target: &Arg<'_>) -> Range {
        let n = self.arg_size(target);
        match self.items(target) {
            None => n.times(TRAVERSAL),
            Some((Type::String | Type::Bytes, item)) => {
                n.multiplied(ONE.plus(item.times(TRAVERSAL)))
            }
            Some(_) => n,
        }
    }

    fn join(&self, target: &Arg<'_>, args: &[Arg<'_>]) -> CallCost {
        let n = self.arg_size(target);
        let mut size = match self.items(target) {
            Some((_, item)) => n.multiplied(item),
            None => Range::fixed(0),
        };
        if let Some(separator) = args.first() {
            let between = Range {
                min: n.min.saturating_sub(1),
                max: n.max.saturating_sub(1),
            };
            size = size.plus(self.arg_size(separator).multiplied(between));
        }
        (size.times(TRAVERSAL), Some(size))
    }

    fn replace(&self, target: &Arg<'_>, args: &[Arg<'_>]) -> Option<CallCost> {
        let [old, new, ..] = args else {
            return None;
        };
        let (n, old, new) = (
            self.arg_size(target),
            self.arg_size(old),
            self.arg_size(new),
        );
        // How often something is replaced, and what of the text stays.
        let (mut count, mut kept) = (Range::fixed(0), Range::fixed(0));
        let parts = |n: u64, each: u64| {
            times_ceil(crate::number::of_uint(n) / crate::number::of_uint(each))
        };
        if old.min == 0 {
            count.max = n.max.saturating_add(1);
            kept.max = n.max;
        } else if new.max <= old.min {
            kept.max = n.max;
        } else {
            count.max = parts(n.max, old.min);
        }
        if old.max == 0 {
            count.min = n.min.saturating_add(1);
            kept.min = n.min;
        } else if old.max <= new.min {
            kept.min = n.min;
        } else {
            count.min = parts(n.min, old.max);
        }
        let size = count.multiplied(new).plus(kept);
        Some((n.times(2.0 * TRAVERSAL), Some(size)))
    }

    /// Equality of types of Kubernetes' library.
    pub(super) fn of_equality(&self, function: &str, args: &[Arg<'_>]) -> Option<CallCost> {
        let [left, right] = args else {
            return None;
        };
        let t = self.checked.type_of(left.expr);
        if function != op::EQUALS || t != self.checked.type_of(right.expr) {
            return None;
        }
        let up_to = |max: u64| Range { min: 1, max }.times(TRAVERSAL);
        let cost = match t {
            Type::Opaque(name, _) if matches!(&**name, "net.IP" | "net.CIDR") => ONE,
            Type::Object(name) => match &**name {
                "kubernetes.Quantity"
                | "kubernetes.Semver"
                | "kubernetes.authorization.Authorizer"
                | "kubernetes.authorization.PathCheck"
                | "kubernetes.authorization.GroupCheck"
                | "kubernetes.authorization.ResourceCheck"
                | "kubernetes.authorization.Decision" => ONE,
                "kubernetes.NamedFormat" => up_to(FORMAT_MAX),
                "kubernetes.URL" => up_to(right.size.map_or(1, |s| s.max)),
                _ => return None,
            },
            _ => return None,
        };
        Some((cost, None))
    }
}
