//! How large a text unfolds: each use of a `WITH` query is a copy of its plan.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    ObjectName, Query, Statement as Ast, TableFactor, Visit, VisitMut, Visitor, VisitorMut,
};

/// Counts the tables that a statement reads once everything is unfolded; `None` if it is more than
/// `most`. It goes by name alone, so it may count too much where names are used twice.
pub(super) fn tables(statement: &Statement, most: usize) -> Option<usize> {
    let Some(ast) = ast(statement) else { return Some(0) };
    let mut named = Named::default();
    let _ = ast.visit(&mut named);
    let mut weights: HashMap<&str, usize> =
        named.queries.iter().map(|(name, _)| (name.as_str(), 1)).collect();
    // A chain of n queries settles after n rounds; what does not settle has names used twice.
    for _ in 0..=named.queries.len() {
        let mut next: HashMap<&str, usize> = HashMap::new();
        for (name, uses) in &named.queries {
            let weight = weigh(uses, &weights, Some(name));
            if weight > most {
                return None;
            }
            // A name that is used twice counts as both.
            *next.entry(name.as_str()).or_default() += weight;
        }
        let settled = next == weights;
        weights = next;
        if settled {
            break;
        }
    }
    let total = weigh(&named.uses, &weights, None);
    (total <= most).then_some(total)
}

fn weigh(uses: &[String], weights: &HashMap<&str, usize>, own: Option<&str>) -> usize {
    let weight = |name: &String| match own {
        // A recursive query reads its own rows, not a copy of itself.
        Some(own) if own == name => 1,
        _ => weights.get(name.as_str()).copied().unwrap_or(1),
    };
    uses.iter().map(weight).fold(0, usize::saturating_add).max(1)
}

/// The last part of a name, without its quotes.
fn last(name: &ObjectName) -> Option<String> {
    Some(name.0.last()?.as_ident()?.value.to_lowercase())
}

/// Takes the schema off the names of table functions: the engine knows them without only.
pub(super) fn bare_functions(statement: &mut Statement) {
    if let Some(ast) = ast_mut(statement) {
        let _ = ast.visit(&mut Bare);
    }
}

fn ast(statement: &Statement) -> Option<&Ast> {
    match statement {
        Statement::Statement(ast) => Some(ast),
        Statement::Explain(explain) => ast(&explain.statement),
        _ => None,
    }
}

fn ast_mut(statement: &mut Statement) -> Option<&mut Ast> {
    match statement {
        Statement::Statement(ast) => Some(ast),
        Statement::Explain(explain) => ast_mut(&mut explain.statement),
        _ => None,
    }
}

/// The `WITH` queries of a statement by name, each with the tables that its text names, and the
/// tables that the whole text names.
#[derive(Default)]
struct Named {
    queries: Vec<(String, Vec<String>)>,
    uses: Vec<String>,
}

#[derive(Default)]
struct Uses(Vec<String>);

struct Bare;

// === impl Named ===

impl Visitor for Named {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            let mut uses = Uses::default();
            let _ = cte.query.visit(&mut uses);
            self.queries.push((cte.alias.name.value.to_lowercase(), uses.0));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, name: &ObjectName) -> ControlFlow<()> {
        self.uses.extend(last(name));
        ControlFlow::Continue(())
    }
}

// === impl Uses ===

impl Visitor for Uses {
    type Break = ();

    fn pre_visit_relation(&mut self, name: &ObjectName) -> ControlFlow<()> {
        self.0.extend(last(name));
        ControlFlow::Continue(())
    }
}

// === impl Bare ===

impl VisitorMut for Bare {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args: Some(_), .. } = factor {
            let parts: Vec<String> = name.0.iter().map(|part| part.to_string()).collect();
            let known = ["public", "weir.public"].map(str::to_owned);
            if let [before @ .., _] = parts.as_slice()
                && known.contains(&before.join("."))
            {
                name.0.drain(..before.len());
            }
        }
        ControlFlow::Continue(())
    }
}
