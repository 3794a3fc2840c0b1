//! Environments, in which expressions are compiled, and compiled expressions.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::ast::{Expr, ExprKind};
use crate::budget::Budget;
use crate::checker::{self, Checked, Reference, Scope};
use crate::cost::estimate::{self, Range, Sizes};
use crate::decl::{DeclType, Objects};
use crate::deep;
use crate::eval::{self, Activation, Outcome};
use crate::functions::Library;
use crate::mutation;
use crate::parse;
use crate::plan::{self, Node};
use crate::source::{Issues, Source};
use crate::types::Type;
use crate::validators;
use crate::value::{Evaluated, EvaluationError, Value};
use crate::version::Version;

/// What an expression may name: variables with their types, and the library of a version.
#[derive(Debug, Clone)]
pub struct Env {
    library: Library,
    variables: BTreeMap<String, Type>,
    objects: Objects,
    /// Types of data whose sizes count for the cost, by variable.
    data: BTreeMap<String, Arc<DeclType>>,
}

impl Env {
    /// Without variables.
    pub fn new(version: Version) -> Self {
        Self {
            library: Library {
                version,
                mutation: false,
            },
            variables: BTreeMap::new(),
            objects: Objects::default(),
            data: BTreeMap::new(),
        }
    }

    /// The same with a variable of a type.
    #[must_use]
    pub fn with_variable(mut self, name: &str, t: Type) -> Self {
        self.variables.insert(name.to_owned(), t);
        self
    }

    /// The same with a variable of data. Its objects have names already ([`DeclType::named`]).
    #[must_use]
    pub fn with_data(mut self, name: &str, t: &Arc<DeclType>) -> Self {
        self.objects.add(t);
        self.variables.insert(name.to_owned(), t.cel_type());
        self.data.insert(name.to_owned(), t.clone());
        self
    }

    /// The same with a variable that holds such data, maybe.
    #[must_use]
    pub fn with_optional_data(mut self, name: &str, t: &Arc<DeclType>) -> Self {
        self = self.with_data(name, t);
        self.variables
            .insert(name.to_owned(), Type::optional(t.cel_type()));
        self
    }

    /// The same knowing the objects of a type.
    #[must_use]
    pub fn with_objects(mut self, t: &Arc<DeclType>) -> Self {
        self.objects.add(t);
        self
    }

    /// The same with the types and functions of mutating policies: `JSONPatch`, `Object` and `jsonpatch.escapeKey`.
    #[must_use]
    pub fn with_mutation(mut self) -> Self {
        self.library.mutation = true;
        self
    }

    /// Reads and checks an expression.
    ///
    /// # Errors
    /// [`Issues`] as kube-apiserver shows them.
    pub fn compile(&self, text: &str) -> Result<Program, Issues> {
        // Each level takes two code points at least.
        deep::run(text.len() / 2, || self.compile_here(text))
    }

    fn compile_here(&self, text: &str) -> Result<Program, Issues> {
        let source = Source::new(text);
        let ast = parse::parse(&source, self.library.version)?;
        let checked = checker::check(ast, &source, self)?;
        validators::validate(&checked, &source, self.library.version)?;
        let node = plan::plan(&checked, self.library);
        let estimated = estimate::estimate(&checked, self);
        Ok(Program {
            inner: Arc::new(Inner {
                depth: depth(&checked.root),
                output: checked.type_of(&checked.root).clone(),
                names: names_of(&checked),
                node,
                estimated,
            }),
        })
    }
}

/// The variables and types that a tree refers to.
fn names_of(checked: &Checked) -> Vec<Arc<str>> {
    let mut names: Vec<Arc<str>> = checked
        .references
        .values()
        .filter_map(|reference| match reference {
            Reference::Ident(name) => Some(name.clone()),
            Reference::Overloads(_) => None,
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

impl Scope for Env {
    fn variable(&self, name: &str) -> Option<Type> {
        self.variables.get(name).cloned()
    }

    fn objects(&self) -> &Objects {
        &self.objects
    }

    fn field(&self, object: &str, field: &str) -> Option<Type> {
        let own = self
            .library
            .mutation
            .then(|| mutation::field(object, field));
        own.flatten().or_else(|| self.objects.field(object, field))
    }

    fn is_object(&self, name: &str) -> bool {
        self.objects.is_known(name) || (self.library.mutation && mutation::is_object(name))
    }

    fn library(&self) -> Library {
        self.library
    }
}

impl Sizes for Env {
    fn size(&self, path: &[Rc<str>]) -> Option<Range> {
        let (variable, steps) = path.split_first()?;
        // A local variable without a path of its own is looked up like the data.
        let mut t = self
            .data
            .get(&**variable)
            .or_else(|| self.data.values().next())?
            .clone();
        for step in steps {
            t = t.step(step)?;
        }
        Some(Range {
            min: 0,
            max: u64::try_from(t.elements_max).unwrap_or(0),
        })
    }
}

/// A compiled expression. Cheap to clone and to share.
#[derive(Debug, Clone)]
pub struct Program {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    output: Type,
    names: Vec<Arc<str>>,
    /// The plan, or why there is none.
    node: Result<Node, String>,
    estimated: Range,
    /// How deeply it nests.
    depth: usize,
}

impl Program {
    /// The type of what it gives.
    pub fn output_type(&self) -> &Type {
        &self.inner.output
    }

    /// What an evaluation can cost by the sizes that are known.
    pub fn estimated_cost(&self) -> Range {
        self.inner.estimated
    }

    /// Whether it refers to a variable.
    pub fn names(&self, variable: &str) -> bool {
        self.inner.names.iter().any(|name| **name == *variable)
    }

    /// What is wrong with a constant in it, such as a text that is to be a number; then it can't be evaluated.
    pub fn constant_error(&self) -> Option<&str> {
        self.inner.node.as_ref().err().map(String::as_str)
    }

    /// Evaluates it and takes what that cost from a budget.
    ///
    /// # Errors
    /// What went wrong, or that it cost more than one evaluation may ([`EvaluationError::is_limit`]). If the budget was
    /// too small, it is overdrawn afterwards and the value is to be thrown away.
    pub fn evaluate<'a>(
        &self,
        activation: &dyn Activation<'a>,
        budget: &mut Budget,
    ) -> Result<Value<'a>, EvaluationError> {
        let outcome = self.run(activation, budget.call_max());
        budget.take(outcome.cost);
        outcome.value
    }

    /// Evaluates it within a cost.
    pub(crate) fn run<'a>(&self, activation: &dyn Activation<'a>, cost_max: u64) -> Outcome<'a> {
        match &self.inner.node {
            Ok(node) => deep::run(self.inner.depth, || eval::run(node, activation, cost_max)),
            Err(why) => Outcome {
                value: Err(EvaluationError::new(why.clone())),
                cost: 0,
            },
        }
    }

    /// Evaluates it without variables and without a budget of others. For tests and constants.
    pub fn constant_value(&self) -> Evaluated<'static> {
        self.run(&(), crate::budget::CALL_COST_MAX).value
    }
}

/// How deeply nodes nest.
fn depth(expr: &Expr) -> usize {
    let mut deepest = 0;
    children(expr, &mut |child| deepest = deepest.max(depth(child)));
    deepest + 1
}

/// Looks at a node and all below it, parents first.
pub(crate) fn walk<'e>(expr: &'e Expr, look: &mut dyn FnMut(&'e Expr)) {
    look(expr);
    children(expr, &mut |child| walk(child, look));
}

/// Looks at the nodes right below one.
pub(crate) fn children<'e>(expr: &'e Expr, look: &mut dyn FnMut(&'e Expr)) {
    match &expr.kind {
        ExprKind::Nothing | ExprKind::Literal(_) | ExprKind::Ident(_) => {}
        ExprKind::Select { operand, .. } => look(operand),
        ExprKind::Call { target, args, .. } => {
            if let Some(target) = target {
                look(target);
            }
            args.iter().for_each(look);
        }
        ExprKind::List { elements, .. } => elements.iter().for_each(look),
        ExprKind::Map(entries) => {
            for entry in entries {
                look(&entry.key);
                look(&entry.value);
            }
        }
        ExprKind::Struct { fields, .. } => fields.iter().for_each(|f| look(&f.value)),
        ExprKind::Comprehension(c) => {
            for part in [&c.range, &c.init, &c.condition, &c.step, &c.result] {
                look(part);
            }
        }
    }
}
