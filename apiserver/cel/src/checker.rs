//! Types of all nodes, and which function each call means.

mod unify;

use std::collections::HashMap;
use std::sync::Arc;

use crate::ast::{Ast, Comprehension, Expr, ExprKind, FieldInit, Id, Literal, MapEntry, op};
use crate::decl::Objects;
use crate::functions::{Function, Library};
use crate::source::{Issue, Issues, Place, Source};
use crate::types::Type;
use unify::Mapping;

/// What a node refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reference {
    /// A variable, or a type when the node's type is one of types.
    Ident(Arc<str>),
    /// The signatures of a function that fit; one unless something is dynamic.
    Overloads(Vec<&'static str>),
}

/// A tree with types and references.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    pub root: Expr,
    pub offsets: HashMap<Id, usize>,
    pub types: HashMap<Id, Type>,
    pub references: HashMap<Id, Reference>,
}

impl Checked {
    pub(crate) fn type_of(&self, expr: &Expr) -> &Type {
        self.types.get(&expr.id).unwrap_or(&Type::Dyn)
    }
}

/// What an expression may name.
pub(crate) trait Scope {
    /// The type of a variable.
    fn variable(&self, name: &str) -> Option<Type>;
    /// The objects whose fields are known.
    fn objects(&self) -> &Objects;
    /// The type of a field of an object, if not as [`Objects::field`] has it.
    fn field(&self, object: &str, field: &str) -> Option<Type> {
        self.objects().field(object, field)
    }
    /// Whether an object of that name can be selected from or made.
    fn is_object(&self, name: &str) -> bool {
        self.objects().is_known(name)
    }
    fn library(&self) -> Library;
}

/// Checks a tree.
pub(crate) fn check(ast: Ast, source: &Source, scope: &dyn Scope) -> Result<Checked, Issues> {
    let mut root = ast.root;
    let mut checker = Checker {
        scope,
        source,
        offsets: &ast.offsets,
        locals: Vec::new(),
        mapping: Mapping::default(),
        types: HashMap::new(),
        references: HashMap::new(),
        issues: Vec::new(),
    };
    checker.check(&mut root);
    if !checker.issues.is_empty() {
        return Err(Issues::new(source, checker.issues));
    }
    let Checker {
        mapping,
        types,
        references,
        ..
    } = checker;
    let types = types
        .into_iter()
        .map(|(id, t)| (id, mapping.substitute(&t, true)))
        .collect();
    Ok(Checked {
        root,
        offsets: ast.offsets,
        types,
        references,
    })
}

/// Types that can be named but are no variables of the caller.
fn type_named(name: &str, library: Library) -> Option<Type> {
    use crate::version::Version;
    let since = |minor| library.version >= Version::new(1, minor);
    let named = match name {
        "list" => Type::list(Type::Param(Arc::from("A"))),
        "map" => Type::map(Type::Param(Arc::from("A")), Type::Param(Arc::from("B"))),
        "null_type" => Type::Null,
        "google.protobuf.Duration" => Type::Duration,
        "google.protobuf.Timestamp" => Type::Timestamp,
        "type" => Type::Type(None),
        "bool" | "bytes" | "double" | "int" | "string" | "uint" => Type::parse(name),
        "net.IP" | "net.CIDR" if since(30) => Type::parse(name),
        "optional_type" if since(28) => Type::Opaque(Arc::from(name), Arc::from([])),
        _ => return None,
    };
    Some(Type::type_of(named))
}

struct Checker<'a> {
    scope: &'a dyn Scope,
    source: &'a Source,
    offsets: &'a HashMap<Id, usize>,
    /// Variables of comprehensions, the innermost last.
    locals: Vec<(Arc<str>, Type)>,
    mapping: Mapping,
    types: HashMap<Id, Type>,
    references: HashMap<Id, Reference>,
    issues: Vec<Issue>,
}

impl Checker<'_> {
    fn wrong(&mut self, id: Id, message: String) {
        let place = self
            .offsets
            .get(&id)
            .map_or(Place::NONE, |o| self.source.place(*o));
        self.issues.push(Issue { place, message });
    }

    fn undeclared(&mut self, id: Id, name: &str) {
        self.wrong(
            id,
            format!("undeclared reference to '{name}' (in container '')"),
        );
        self.types.insert(id, Type::Error);
    }

    fn mismatch(&mut self, id: Id, expected: &Type, found: &Type) {
        self.wrong(
            id,
            format!("expected type '{expected}' but found '{found}'"),
        );
    }

    fn type_of(&self, expr: &Expr) -> Type {
        self.types.get(&expr.id).cloned().unwrap_or(Type::Error)
    }

    /// The name without a leading dot, and the type of what it names.
    fn lookup(&self, name: &str) -> Option<(Arc<str>, Type)> {
        let name = name.strip_prefix('.').unwrap_or(name);
        let local = self.locals.iter().rev().find(|(n, _)| &**n == name);
        let found = local
            .map(|(_, t)| t.clone())
            .or_else(|| self.scope.variable(name))
            .or_else(|| type_named(name, self.scope.library()))
            .or_else(|| {
                self.scope
                    .is_object(name)
                    .then(|| Type::type_of(Type::object(name)))
            })?;
        Some((Arc::from(name), found))
    }

    fn check(&mut self, expr: &mut Expr) {
        match &mut expr.kind {
            ExprKind::Nothing => {
                self.types.insert(expr.id, Type::Error);
            }
            ExprKind::Literal(literal) => {
                let t = match literal {
                    Literal::Null => Type::Null,
                    Literal::Bool(_) => Type::Bool,
                    Literal::Int(_) => Type::Int,
                    Literal::Uint(_) => Type::Uint,
                    Literal::Double(_) => Type::Double,
                    Literal::String(_) => Type::String,
                    Literal::Bytes(_) => Type::Bytes,
                };
                self.types.insert(expr.id, t);
            }
            ExprKind::Ident(name) => match self.lookup(name) {
                Some((name, t)) => self.refer(expr, name, t),
                None => {
                    let name = name.clone();
                    self.undeclared(expr.id, &name);
                }
            },
            ExprKind::Select { .. } => self.select(expr),
            ExprKind::Call { .. } => self.call(expr),
            ExprKind::List {
                elements,
                optionals,
            } => self.list(expr.id, elements, optionals),
            ExprKind::Map(entries) => self.map(expr.id, entries),
            ExprKind::Struct { name, fields } => self.structure(expr.id, name, fields),
            ExprKind::Comprehension(c) => self.comprehension(expr.id, c),
        }
    }

    /// Makes a node an identifier of something known.
    fn refer(&mut self, expr: &mut Expr, name: Arc<str>, t: Type) {
        self.types.insert(expr.id, t);
        self.references
            .insert(expr.id, Reference::Ident(name.clone()));
        expr.kind = ExprKind::Ident(name);
    }

    fn select(&mut self, expr: &mut Expr) {
        if let Some((name, t)) = expr.qualified_name().and_then(|n| self.lookup(&n)) {
            self.refer(expr, name, t);
            return;
        }
        let ExprKind::Select {
            operand,
            field,
            test,
        } = &mut expr.kind
        else {
            return;
        };
        let (field, test) = (field.clone(), *test);
        let mut result = self.select_field(expr.id, operand, &field, false);
        if test {
            result = Type::Bool;
        }
        let result = self.mapping.substitute(&result, false);
        self.types.insert(expr.id, result);
    }

    fn select_field(&mut self, id: Id, operand: &mut Expr, field: &str, optional: bool) -> Type {
        self.check(operand);
        let operand_type = self.mapping.substitute(&self.type_of(operand), false);
        let unwrapped = operand_type.unwrap_optional();
        let target = unwrapped.unwrap_or(&operand_type);
        let result = match target {
            Type::Map(entry) => entry.1.clone(),
            Type::Object(name) => self.field_type(id, name, field),
            Type::Param(_) => {
                // A free variable that is selected from can be anything.
                self.mapping.is_assignable(&Type::Dyn, target);
                Type::Dyn
            }
            t => {
                if !t.is_dyn_or_error() {
                    let message = format!("type '{t}' does not support field selection");
                    self.wrong(id, message);
                }
                Type::Dyn
            }
        };
        if unwrapped.is_some() || optional {
            Type::optional(result)
        } else {
            result
        }
    }

    fn field_type(&mut self, id: Id, object: &str, field: &str) -> Type {
        if !self.scope.is_object(object) {
            self.wrong(id, format!("unexpected failed resolution of '{object}'"));
            return Type::Error;
        }
        match self.scope.field(object, field) {
            Some(t) => t,
            None => {
                self.wrong(id, format!("undefined field '{field}'"));
                Type::Error
            }
        }
    }

    fn call(&mut self, expr: &mut Expr) {
        let id = expr.id;
        let ExprKind::Call {
            function,
            target,
            args,
        } = &mut expr.kind
        else {
            return;
        };
        if &**function == op::OPT_SELECT {
            self.optional_select(id, args);
            return;
        }
        for arg in args.iter_mut() {
            self.check(arg);
        }
        let library = self.scope.library();
        let Some(receiver) = target else {
            let name = function.strip_prefix('.').unwrap_or(function);
            match library.find(name) {
                None => {
                    let name = function.clone();
                    self.undeclared(id, &name);
                }
                Some(found) => {
                    *function = Arc::from(found.name);
                    self.resolve(id, found, None, args);
                }
            }
            return;
        };
        // `a.b.c()` may be the function `a.b.c`, or the function `c` of `a.b`.
        if let Some(prefix) = receiver.qualified_name() {
            let name = format!("{prefix}.{function}");
            if let Some(found) = library.find(name.strip_prefix('.').unwrap_or(&name)) {
                *function = Arc::from(found.name);
                *target = None;
                self.resolve(id, found, None, args);
                return;
            }
        }
        self.check(receiver);
        match library.find(function) {
            Some(found) => self.resolve(id, found, Some(receiver), args),
            None => {
                let name = function.clone();
                self.undeclared(id, &name);
            }
        }
    }

    fn optional_select(&mut self, id: Id, args: &mut [Expr]) {
        let [operand, field] = args else {
            let n = args.len();
            let message = format!(
                "unsupported optional field selection: incorrect signature. argument count: {n}"
            );
            self.wrong(id, message);
            return;
        };
        let ExprKind::Literal(Literal::String(field)) = &field.kind else {
            let message = "unsupported optional field selection".to_owned();
            self.wrong(field.id, message);
            return;
        };
        let field = field.clone();
        let result = self.select_field(id, operand, &field, true);
        let result = self.mapping.substitute(&result, false);
        self.types.insert(id, result);
        self.references
            .insert(id, Reference::Overloads(vec!["select_optional_field"]));
    }

    fn resolve(&mut self, id: Id, function: &Function, target: Option<&Expr>, args: &[Expr]) {
        let logic = function.name == op::AND || function.name == op::OR;
        let mut arg_types: Vec<Type> = Vec::with_capacity(args.len() + 1);
        arg_types.extend(target.map(|t| self.type_of(t)));
        arg_types.extend(args.iter().map(|a| self.type_of(a)));
        if logic {
            self.resolve_logic(id, function, args, &arg_types);
            return;
        }
        let mut ids = Vec::new();
        let mut result: Option<Type> = None;
        for overload in &function.overloads {
            // Within comprehensions numbers of all types were always compared.
            let is_known = self.scope.library().has(overload)
                || (is_comparison(function.name) && !self.locals.is_empty());
            if overload.is_member != target.is_some()
                || !is_known
                || overload.args.len() != arg_types.len()
            {
                continue;
            }
            let (wanted, found) = if overload.is_generic {
                self.mapping.instantiate(&overload.args, &overload.result)
            } else {
                (overload.args.clone(), overload.result.clone())
            };
            if !self.mapping.are_assignable(&arg_types, &wanted) {
                continue;
            }
            ids.push(overload.id);
            let found = self.mapping.substitute(&found, false);
            result = Some(match result {
                None => found,
                Some(Type::Dyn) => Type::Dyn,
                Some(before) if before == found => before,
                Some(_) => Type::Dyn,
            });
        }
        match result {
            Some(t) => {
                self.types.insert(id, t);
                self.references.insert(id, Reference::Overloads(ids));
            }
            None => {
                let shown: Vec<Type> = arg_types
                    .iter()
                    .map(|t| self.mapping.substitute(t, true))
                    .collect();
                let signature = signature(&shown, target.is_some());
                let message = format!(
                    "found no matching overload for '{}' applied to '{signature}'",
                    function.name
                );
                self.wrong(id, message);
                self.types.insert(id, Type::Error);
            }
        }
    }

    fn resolve_logic(&mut self, id: Id, function: &Function, args: &[Expr], arg_types: &[Type]) {
        let mut result = Type::Bool;
        for (arg, t) in args.iter().zip(arg_types) {
            if !self.mapping.is_assignable(t, &Type::Bool) {
                self.mismatch(arg.id, &Type::Bool, t);
                result = Type::Error;
            }
        }
        if result == Type::Bool {
            let overload = function.overloads.first().map_or("", |o| o.id);
            self.references
                .insert(id, Reference::Overloads(vec![overload]));
        }
        self.types.insert(id, result);
    }

    /// The type of a list element or map value whose type joins those before it.
    fn join(&mut self, before: Option<Type>, t: Type) -> Type {
        let Some(before) = before else {
            return t;
        };
        if self.mapping.is_assignable(&before, &t) {
            return unify::most_general(&before, &t);
        }
        // Whether that is allowed is looked at when everything else is right.
        Type::Dyn
    }

    /// What an optional element holds.
    fn optional_element(&mut self, id: Id, t: Type) -> Type {
        match t.unwrap_optional() {
            Some(inner) => inner.clone(),
            None => {
                if t != Type::Dyn {
                    self.mismatch(id, &Type::optional(t.clone()), &t);
                }
                t
            }
        }
    }

    fn list(&mut self, id: Id, elements: &mut [Expr], optionals: &[usize]) {
        let mut item: Option<Type> = None;
        for (i, element) in elements.iter_mut().enumerate() {
            self.check(element);
            let mut t = self.type_of(element);
            if optionals.contains(&i) {
                t = self.optional_element(element.id, t);
            }
            item = Some(self.join(item, t));
        }
        let item = item.unwrap_or_else(|| self.mapping.fresh());
        self.types.insert(id, Type::list(item));
    }

    fn map(&mut self, id: Id, entries: &mut [MapEntry]) {
        let (mut key, mut value): (Option<Type>, Option<Type>) = (None, None);
        for entry in entries {
            self.check(&mut entry.key);
            let t = self.type_of(&entry.key);
            key = Some(self.join(key, t));
            self.check(&mut entry.value);
            let mut t = self.type_of(&entry.value);
            if entry.optional {
                t = self.optional_element(entry.value.id, t);
            }
            value = Some(self.join(value, t));
        }
        let key = key.unwrap_or_else(|| self.mapping.fresh());
        let value = value.unwrap_or_else(|| self.mapping.fresh());
        self.types.insert(id, Type::map(key, value));
    }

    fn structure(&mut self, id: Id, name: &mut Arc<str>, fields: &mut [FieldInit]) {
        let Some((full, t)) = self.lookup(name) else {
            let name = name.clone();
            self.undeclared(id, &name);
            return;
        };
        *name = full.clone();
        self.references.insert(id, Reference::Ident(full.clone()));
        let mut result = Type::Error;
        match &t {
            Type::Error => {}
            Type::Type(Some(inner)) => match &**inner {
                Type::Object(_) => result = (**inner).clone(),
                other => {
                    let shown = other.name();
                    self.wrong(id, format!("'{shown}' is not a message type"));
                }
            },
            other => {
                let message = format!("'{}' is not a type", declared_name(other));
                self.wrong(id, message);
            }
        }
        self.types.insert(id, result);
        for field in fields {
            self.check(&mut field.value);
            let wanted = self.field_type(field.id, &full, &field.name);
            let mut found = self.type_of(&field.value);
            if field.optional {
                found = self.optional_element(field.value.id, found);
            }
            if !self.mapping.is_assignable(&wanted, &found) {
                let message = format!(
                    "expected type of field '{}' is '{wanted}' but provided type is '{found}'",
                    field.name
                );
                self.wrong(field.id, message);
            }
        }
    }

    fn comprehension(&mut self, id: Id, c: &mut Comprehension) {
        self.check(&mut c.range);
        self.check(&mut c.init);
        let range = self.mapping.substitute(&self.type_of(&c.range), false);
        let accumulated = self.type_of(&c.init);
        let n_locals = self.locals.len();
        self.locals
            .push((c.accumulator.clone(), accumulated.clone()));
        let (first, second) = match &range {
            Type::List(item) if c.var2.is_some() => (Type::Int, (**item).clone()),
            Type::List(item) => ((**item).clone(), Type::Error),
            Type::Map(entry) => entry.as_ref().clone(),
            Type::Dyn | Type::Error | Type::Param(_) => {
                self.mapping.is_assignable(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.wrong(c.range.id, message);
                (Type::Error, Type::Error)
            }
        };
        self.locals.push((c.var.clone(), first));
        if let Some(var2) = &c.var2 {
            self.locals.push((var2.clone(), second));
        }
        self.check(&mut c.condition);
        self.assert(&c.condition, &Type::Bool);
        self.check(&mut c.step);
        self.assert(&c.step, &accumulated);
        self.locals.truncate(n_locals + 1);
        self.check(&mut c.result);
        self.locals.truncate(n_locals);
        let result = self.mapping.substitute(&self.type_of(&c.result), false);
        self.types.insert(id, result);
    }

    fn assert(&mut self, expr: &Expr, wanted: &Type) {
        let found = self.type_of(expr);
        if !self.mapping.is_assignable(wanted, &found) {
            self.mismatch(expr.id, wanted, &found);
        }
    }
}

fn is_comparison(function: &str) -> bool {
    matches!(function, "_<_" | "_<=_" | "_>_" | "_>=_")
}

fn declared_name(t: &Type) -> String {
    match t {
        Type::Duration => "google.protobuf.Duration".to_owned(),
        other => other.name().to_owned(),
    }
}

/// Types of arguments as a message shows them.
fn signature(types: &[Type], is_member: bool) -> String {
    let shown: Vec<String> = types.iter().map(Type::to_string).collect();
    match shown.split_first() {
        Some((target, args)) if is_member => format!("{target}.({})", args.join(", ")),
        _ => format!("({})", shown.join(", ")),
    }
}
