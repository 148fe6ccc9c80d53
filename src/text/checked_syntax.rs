//! Rewriting of a template's syntax tree: to check each value that an operation traverses, and to add text as Jinja2 does.
//!
//! The engine's fuel covers most operations, but not the traversal of nested values: sixty nested lists, each holding
//! the previous one twice, take 2⁶⁰ steps to compare. Values that are compared, joined, sorted, formatted or stored in
//! another value are therefore passed through a filter that counts their elements (see `template_engine.rs`).
//!
//! The filters `safe` and `escape` make a `Markup` in Jinja2, whose `+` escapes the other side for HTML even where
//! nothing else is escaped. The engine does so only where it escapes what is printed, so `+` becomes a filter.

use minijinja::machinery::ast::{
    AutoEscape, BinOp, BinOpKind, Block, Break, Call, CallArg, CallBlock, Compare, CompareOp, Const, Continue, Do,
    EmitExpr, EmitRaw, Expr, Extends, Filter, FilterBlock, ForLoop, FromImport, GetAttr, GetItem, IfCond, IfExpr,
    Import, Include, List, Macro, Map, Set, SetBlock, Slice, Spanned, Stmt, Template, Test, Tuple, UnaryOp,
    UnaryOpKind, Var, WithBlock,
};

/// The filter for values that an operation traverses.
pub(super) const OPERAND: &str = "checked";
/// The filter for values that become elements of another value.
pub(super) const ELEMENT: &str = "checked_element";

/// The filter for values that a loop goes through.
pub(super) const ITERATED: &str = "iterated";
/// The filter for `+`: its value is the left side, its argument the right one.
pub(super) const SUM: &str = "sum_of_two";
/// The filter for the left side of `~`, whose result is not safe in Jinja2 unless what is printed is escaped.
pub(super) const CONCATENATED: &str = "concatenated";
/// The filter that refuses to write an iterator as JSON, as Python does.
pub(super) const ITERATOR_TO_JSON: &str = "iterator_tojson";

/// Filters whose result is an iterator in Jinja2.
const ITERATORS: [&str; 6] = ["map", "select", "reject", "selectattr", "rejectattr", "unique"];
/// Filters that do not traverse their input.
const SHALLOW: [&str; 7] = ["length", "count", "default", "d", "first", "last", "list"];
/// Functions whose result contains their arguments.
const CONTAINERS: [&str; 2] = ["namespace", "dict"];

/// Returns the statement with checks added.
pub(super) fn stmt<'a>(stmt: &Stmt<'a>) -> Stmt<'a> {
    match stmt {
        Stmt::Template(s) => Stmt::Template(Spanned::new(Template { children: body(&s.children) }, s.span())),
        // The formatter checks printed values.
        Stmt::EmitExpr(s) => Stmt::EmitExpr(Spanned::new(EmitExpr { expr: expr(&s.expr) }, s.span())),
        Stmt::EmitRaw(s) => Stmt::EmitRaw(Spanned::new(EmitRaw { raw: s.raw }, s.span())),
        Stmt::ForLoop(s) => {
            let for_loop = ForLoop {
                target: target(&s.target),
                iter: filtered(expr(&s.iter), ITERATED, &s.iter),
                filter_expr: s.filter_expr.as_ref().map(expr),
                recursive: s.recursive,
                body: body(&s.body),
                else_body: body(&s.else_body),
            };
            Stmt::ForLoop(Spanned::new(for_loop, s.span()))
        }
        Stmt::IfCond(s) => {
            let (true_body, false_body) = (body(&s.true_body), body(&s.false_body));
            Stmt::IfCond(Spanned::new(IfCond { expr: expr(&s.expr), true_body, false_body }, s.span()))
        }
        Stmt::WithBlock(s) => {
            let assignments = s.assignments.iter().map(|(to, value)| (target(to), assigned(to, value))).collect();
            Stmt::WithBlock(Spanned::new(WithBlock { assignments, body: body(&s.body) }, s.span()))
        }
        Stmt::Set(s) => {
            Stmt::Set(Spanned::new(Set { target: target(&s.target), expr: assigned(&s.target, &s.expr) }, s.span()))
        }
        Stmt::SetBlock(s) => {
            let filter = s.filter.as_ref().map(expr);
            Stmt::SetBlock(Spanned::new(SetBlock { target: target(&s.target), filter, body: body(&s.body) }, s.span()))
        }
        Stmt::AutoEscape(s) => {
            Stmt::AutoEscape(Spanned::new(AutoEscape { enabled: expr(&s.enabled), body: body(&s.body) }, s.span()))
        }
        Stmt::FilterBlock(s) => {
            let block = FilterBlock { filter: expr(&s.filter), filter_span: s.filter_span, body: body(&s.body) };
            Stmt::FilterBlock(Spanned::new(block, s.span()))
        }
        Stmt::Block(s) => {
            Stmt::Block(Spanned::new(Block { name: s.name, required: s.required, body: body(&s.body) }, s.span()))
        }
        Stmt::Import(s) => Stmt::Import(Spanned::new(Import { expr: expr(&s.expr), name: target(&s.name) }, s.span())),
        Stmt::FromImport(s) => {
            let names = s.names.iter().map(|(name, alias)| (target(name), alias.as_ref().map(target))).collect();
            Stmt::FromImport(Spanned::new(FromImport { expr: expr(&s.expr), names }, s.span()))
        }
        Stmt::Extends(s) => Stmt::Extends(Spanned::new(Extends { name: expr(&s.name) }, s.span())),
        Stmt::Include(s) => {
            Stmt::Include(Spanned::new(Include { name: expr(&s.name), ignore_missing: s.ignore_missing }, s.span()))
        }
        Stmt::Macro(s) => Stmt::Macro(Spanned::new(definition(s), s.span())),
        Stmt::CallBlock(s) => {
            let block = CallBlock {
                call: Spanned::new(call(&s.call), s.call.span()),
                call_expr_span: s.call_expr_span,
                macro_decl: Spanned::new(definition(&s.macro_decl), s.macro_decl.span()),
            };
            Stmt::CallBlock(Spanned::new(block, s.span()))
        }
        Stmt::Continue(s) => Stmt::Continue(Spanned::new(Continue, s.span())),
        Stmt::Break(s) => Stmt::Break(Spanned::new(Break, s.span())),
        Stmt::Do(s) => Stmt::Do(Spanned::new(Do { call: Spanned::new(call(&s.call), s.call.span()) }, s.span())),
    }
}

fn body<'a>(statements: &[Stmt<'a>]) -> Vec<Stmt<'a>> {
    statements.iter().map(stmt).collect()
}

fn definition<'a>(d: &Macro<'a>) -> Macro<'a> {
    let (args, defaults) = (d.args.iter().map(target).collect(), d.defaults.iter().map(expr).collect());
    Macro { name: d.name, args, defaults, body: body(&d.body) }
}

/// Returns the assigned expression, checked if the target is an attribute of a namespace.
fn assigned<'a>(to: &Expr<'a>, value: &Expr<'a>) -> Expr<'a> {
    if matches!(to, Expr::Var(_)) { expr(value) } else { checked(value, ELEMENT) }
}

/// Returns an assignment target. Its values are only looked up.
fn target<'a>(to: &Expr<'a>) -> Expr<'a> {
    match to {
        Expr::List(e) => Expr::List(Spanned::new(List { items: e.items.iter().map(target).collect() }, e.span())),
        Expr::Tuple(e) => Expr::Tuple(Spanned::new(Tuple { items: e.items.iter().map(target).collect() }, e.span())),
        _ => expr(to),
    }
}

/// Returns whether the expression's value certainly has no elements.
fn is_scalar(e: &Expr<'_>) -> bool {
    match e {
        Expr::Const(_) | Expr::Compare(_) | Expr::Test(_) | Expr::UnaryOp(_) => true,
        Expr::BinOp(e) => !matches!(e.op, BinOpKind::ScAnd | BinOpKind::ScOr | BinOpKind::Add | BinOpKind::Mul),
        _ => false,
    }
}

fn is_number(e: &Expr<'_>) -> bool {
    matches!(e, Expr::Const(e) if e.value.is_number())
}

fn checked<'a>(e: &Expr<'a>, filter: &'static str) -> Expr<'a> {
    if is_scalar(e) {
        return expr(e);
    }
    filtered(expr(e), filter, e)
}

/// Returns an expression passed through a filter, at the place of `source`.
fn filtered<'a>(value: Expr<'a>, filter: &'static str, source: &Expr<'a>) -> Expr<'a> {
    Expr::Filter(Spanned::new(Filter { name: filter, expr: Some(value), args: Vec::new() }, source.span()))
}

fn operand<'a>(e: &Expr<'a>) -> Expr<'a> {
    checked(e, OPERAND)
}

fn arguments<'a>(args: &[CallArg<'a>], filter: &'static str) -> Vec<CallArg<'a>> {
    let argument = |arg: &CallArg<'a>| match arg {
        CallArg::Pos(e) => CallArg::Pos(checked(e, filter)),
        CallArg::Kwarg(name, e) => CallArg::Kwarg(name, checked(e, filter)),
        CallArg::PosSplat(e) => CallArg::PosSplat(checked(e, filter)),
        CallArg::KwargSplat(e) => CallArg::KwargSplat(checked(e, filter)),
    };
    args.iter().map(argument).collect()
}

fn call<'a>(c: &Call<'a>) -> Call<'a> {
    let plain = c.args.iter().all(|arg| matches!(arg, CallArg::Pos(e) | CallArg::Kwarg(_, e) if is_scalar(e)));
    let callee = match &c.expr {
        // A method may traverse its object, comparing elements with an argument. `self` only names blocks.
        Expr::GetAttr(e) if !plain && !matches!(&e.expr, Expr::Var(v) if v.id == "self") => {
            Expr::GetAttr(Spanned::new(GetAttr { expr: operand(&e.expr), name: e.name }, e.span()))
        }
        other => expr(other),
    };
    let is_container = matches!(&c.expr, Expr::Var(v) if CONTAINERS.contains(&v.id));
    Call { expr: callee, args: arguments(&c.args, if is_container { ELEMENT } else { OPERAND }) }
}

/// Returns the expression with checks added.
fn expr<'a>(e: &Expr<'a>) -> Expr<'a> {
    let elements = |items: &[Expr<'a>]| items.iter().map(|item| checked(item, ELEMENT)).collect::<Vec<_>>();
    match e {
        Expr::Var(e) => Expr::Var(Spanned::new(Var { id: e.id }, e.span())),
        Expr::Const(e) => Expr::Const(Spanned::new(Const { value: e.value.clone() }, e.span())),
        Expr::Slice(e) => {
            let at = |e: &Option<Expr<'a>>| e.as_ref().map(expr);
            let slice = Slice { expr: expr(&e.expr), start: at(&e.start), stop: at(&e.stop), step: at(&e.step) };
            Expr::Slice(Spanned::new(slice, e.span()))
        }
        Expr::UnaryOp(e) => {
            let op = if matches!(e.op, UnaryOpKind::Not) { UnaryOpKind::Not } else { UnaryOpKind::Neg };
            Expr::UnaryOp(Spanned::new(UnaryOp { op, expr: expr(&e.expr) }, e.span()))
        }
        // A number is never added to text.
        Expr::BinOp(e) if matches!(e.op, BinOpKind::Add) && !is_number(&e.left) && !is_number(&e.right) => {
            let args = vec![CallArg::Pos(operand(&e.right))];
            Expr::Filter(Spanned::new(Filter { name: SUM, expr: Some(operand(&e.left)), args }, e.span()))
        }
        Expr::BinOp(e) if matches!(e.op, BinOpKind::Concat) => {
            let left = filtered(operand(&e.left), CONCATENATED, &e.left);
            Expr::BinOp(Spanned::new(BinOp { op: e.op, left, right: operand(&e.right) }, e.span()))
        }
        Expr::BinOp(e) => {
            let (left, right) = (matches!(e.left, Expr::Const(_)), matches!(e.right, Expr::Const(_)));
            // Comparing a container with a scalar constant takes one step. `in` with a constant on the left searches a
            // string for it.
            let shallow = match e.op {
                BinOpKind::ScAnd | BinOpKind::ScOr => true,
                BinOpKind::Eq | BinOpKind::Ne | BinOpKind::Lt | BinOpKind::Lte | BinOpKind::Gt | BinOpKind::Gte => {
                    left || right
                }
                BinOpKind::In => left,
                _ => false,
            };
            let side = |side| if shallow { expr(side) } else { operand(side) };
            Expr::BinOp(Spanned::new(BinOp { op: e.op, left: side(&e.left), right: side(&e.right) }, e.span()))
        }
        Expr::Compare(e) => {
            let ops = e.ops.iter().map(|op| CompareOp { op: op.op, expr: operand(&op.expr) }).collect();
            Expr::Compare(Spanned::new(Compare { expr: operand(&e.expr), ops }, e.span()))
        }
        Expr::IfExpr(e) => {
            let (test_expr, true_expr) = (expr(&e.test_expr), expr(&e.true_expr));
            let chosen = IfExpr { test_expr, true_expr, false_expr: e.false_expr.as_ref().map(expr) };
            Expr::IfExpr(Spanned::new(chosen, e.span()))
        }
        Expr::Filter(e) => {
            let given = |given| if SHALLOW.contains(&e.name) { expr(given) } else { operand(given) };
            let of_iterator = matches!(&e.expr, Some(Expr::Filter(inner)) if ITERATORS.contains(&inner.name));
            let name = if e.name == "tojson" && of_iterator { ITERATOR_TO_JSON } else { e.name };
            let filter = Filter { name, expr: e.expr.as_ref().map(given), args: arguments(&e.args, OPERAND) };
            Expr::Filter(Spanned::new(filter, e.span()))
        }
        Expr::Test(e) => {
            let tested = if e.args.is_empty() { expr(&e.expr) } else { operand(&e.expr) };
            Expr::Test(Spanned::new(Test { name: e.name, expr: tested, args: arguments(&e.args, OPERAND) }, e.span()))
        }
        Expr::GetAttr(e) => Expr::GetAttr(Spanned::new(GetAttr { expr: expr(&e.expr), name: e.name }, e.span())),
        Expr::GetItem(e) => {
            let item = GetItem { expr: expr(&e.expr), subscript_expr: operand(&e.subscript_expr) };
            Expr::GetItem(Spanned::new(item, e.span()))
        }
        Expr::Call(e) => Expr::Call(Spanned::new(call(e), e.span())),
        Expr::List(e) => Expr::List(Spanned::new(List { items: elements(&e.items) }, e.span())),
        Expr::Tuple(e) => Expr::Tuple(Spanned::new(Tuple { items: elements(&e.items) }, e.span())),
        Expr::Map(e) => {
            let keys = e.keys.iter().map(operand).collect();
            Expr::Map(Spanned::new(Map { keys, values: elements(&e.values) }, e.span()))
        }
    }
}
