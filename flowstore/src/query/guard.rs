//! What a text must not be before anything is made of it.
//!
//! The engine works through texts, expressions and plans by recursion, so their depth must be
//! bounded by the stack that it runs on. Nesting is bounded by the parser; chains (`1 + 1 + …`,
//! `… OR … OR …`, `UNION`) are parsed in a loop and become deep trees all the same, so they are
//! counted here, before they are parsed.

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::Statement as Ast;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use super::{QueryError, unfold};

/// Levels of nesting.
const MAX_NESTING: usize = 64;

/// Operators in one chain, those around it included.
const MAX_CHAIN: usize = 512;

/// Tables that a text reads once its `WITH` queries are unfolded: each can double the one before.
const MAX_TABLES: usize = 1024;

/// Nodes of a plan.
const MAX_NODES: usize = 4096;

/// Parses a text that may be anything into the one statement it has to be.
pub(super) fn parse(sql: &str, max_bytes: usize) -> Result<Statement, QueryError> {
    if sql.len() > max_bytes {
        return Err(QueryError::TooLarge(format!("{} bytes, at most {max_bytes}", sql.len())));
    }
    let invalid = |message: String| QueryError::Invalid { message, hint: None };
    let dialect = GenericDialect {};
    let tokens =
        Tokenizer::new(&dialect, sql).tokenize().map_err(|error| invalid(error.to_string()))?;
    check_chains(&tokens)?;
    let plain = with_columns_quoted(tokens);
    let mut statements = DFParserBuilder::new(plain.as_deref().unwrap_or(sql))
        .with_dialect(&dialect)
        .with_recursion_limit(MAX_NESTING)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|error| {
            let message = error.strip_backtrace();
            if message.contains("RecursionLimitExceeded") || message.contains("recursion limit") {
                QueryError::TooLarge(format!("more than {MAX_NESTING} levels of nesting"))
            } else {
                QueryError::from_engine(&error, &[])
            }
        })?;
    let mut statement =
        statements.pop_front().ok_or_else(|| invalid("there is no query".to_owned()))?;
    if !statements.is_empty() {
        return Err(QueryError::NotAllowed("more than one statement".to_owned()));
    }
    check_statement(&statement)?;
    if unfold::tables(&statement, MAX_TABLES).is_none() {
        return Err(QueryError::TooLarge(format!("more than {MAX_TABLES} tables once unfolded")));
    }
    unfold::bare_functions(&mut statement);
    Ok(statement)
}

/// The text with the columns quoted whose names the parser takes for the end of a list (`CLUSTER BY` of
/// other engines, after a comma that it would let trail); none where there are none.
fn with_columns_quoted(mut tokens: Vec<Token>) -> Option<String> {
    let mut found = false;
    for token in &mut tokens {
        if let Token::Word(word) = token
            && word.keyword == Keyword::CLUSTER
            && word.quote_style.is_none()
        {
            "cluster".clone_into(&mut word.value);
            word.quote_style = Some('"');
            found = true;
        }
    }
    found.then(|| tokens.iter().map(Token::to_string).collect())
}

/// Only statements that read pass; whatever is added to SQL later does not.
fn check_statement(statement: &Statement) -> Result<(), QueryError> {
    match statement {
        Statement::Explain(explain) => check_statement(&explain.statement),
        Statement::Statement(ast) => match ast.as_ref() {
            Ast::Query(_)
            | Ast::ShowTables { .. }
            | Ast::ShowColumns { .. }
            | Ast::ShowFunctions { .. }
            | Ast::ShowVariable { .. }
            | Ast::ExplainTable { .. } => Ok(()),
            other => Err(not_allowed(&other.to_string())),
        },
        other => Err(not_allowed(&other.to_string())),
    }
}

fn not_allowed(statement: &str) -> QueryError {
    let words: Vec<&str> = statement.split_whitespace().take(2).collect();
    QueryError::NotAllowed(words.join(" "))
}

fn check_chains(tokens: &[Token]) -> Result<(), QueryError> {
    // Operators seen at each open parenthesis, since its last comma; all of them together bound
    // the depth of the tree at this place.
    let mut levels = vec![0_usize];
    let mut total = 0_usize;
    for token in tokens {
        match token {
            Token::LParen | Token::LBrace => levels.push(0),
            Token::RParen | Token::RBrace => {
                total -= levels.pop().unwrap_or(0);
                if levels.is_empty() {
                    levels.push(0);
                }
            }
            Token::Comma => {
                if let Some(level) = levels.last_mut() {
                    total -= *level;
                    *level = 0;
                }
            }
            token if deepens(token) => {
                if let Some(level) = levels.last_mut() {
                    *level += 1;
                    total += 1;
                }
            }
            _ => {}
        }
        if total > MAX_CHAIN {
            return Err(QueryError::TooLarge(format!("more than {MAX_CHAIN} chained operators")));
        }
    }
    Ok(())
}

/// Whether a token may wrap what stands before it into one more level.
fn deepens(token: &Token) -> bool {
    match token {
        Token::Word(word) => matches!(
            word.keyword,
            Keyword::AND
                | Keyword::OR
                | Keyword::XOR
                | Keyword::NOT
                | Keyword::IS
                | Keyword::IN
                | Keyword::LIKE
                | Keyword::ILIKE
                | Keyword::SIMILAR
                | Keyword::BETWEEN
                | Keyword::UNION
                | Keyword::EXCEPT
                | Keyword::INTERSECT
                | Keyword::MINUS
                | Keyword::JOIN
                | Keyword::AT
                | Keyword::COLLATE
                | Keyword::DIV
                | Keyword::OPERATOR
                | Keyword::OVERLAPS
                | Keyword::REGEXP
                | Keyword::RLIKE
                | Keyword::PIVOT
                | Keyword::UNPIVOT
        ),
        Token::EOF
        | Token::Number(..)
        | Token::Char(_)
        | Token::SingleQuotedString(_)
        | Token::DoubleQuotedString(_)
        | Token::Placeholder(_)
        | Token::Whitespace(_)
        | Token::Period
        | Token::SemiColon
        | Token::RBracket => false,
        // Every other token is an operator, or so rare that counting it does no harm.
        _ => true,
    }
}

/// Bounds what a short text can unfold to.
pub(super) fn check_plan(plan: &LogicalPlan) -> Result<(), QueryError> {
    let mut nodes = 0;
    let walked = plan.apply_with_subqueries(|_| {
        nodes += 1;
        Ok(if nodes > MAX_NODES { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    walked.map_err(|error| QueryError::from_engine(&error, &[]))?;
    if nodes > MAX_NODES {
        return Err(QueryError::TooLarge(format!("a plan of more than {MAX_NODES} steps")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(sql: &str) -> Result<(), QueryError> {
        // The parser's own frames are large when they are not optimised.
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .stack_size(64 << 20)
                .spawn_scoped(scope, || parse(sql, 64 << 10).map(|_| ()))
                .unwrap()
                .join()
                .unwrap()
        })
    }

    #[test]
    fn reading_passes() {
        for sql in [
            "SELECT 1",
            "select * from flows where source_ip in ('1.2.3.4')",
            "VALUES (1), (2)",
            "WITH a AS (SELECT 1) SELECT * FROM a",
            "EXPLAIN ANALYZE SELECT 1",
            "SHOW TABLES",
            "SHOW COLUMNS FROM flows",
            "DESCRIBE flows",
            "SELECT 1;",
            "SELECT node, cluster FROM flows -- cluster, and 'cluster'",
            "SELECT 'cluster' AS a, CLUSTER, f.cluster FROM flows f ORDER BY cluster, node",
        ] {
            assert_eq!(outcome(sql), Ok(()), "{sql}");
        }
    }

    #[test]
    fn everything_else_does_not() {
        for sql in [
            "CREATE TABLE a (b INT)",
            "CREATE EXTERNAL TABLE a STORED AS PARQUET LOCATION '/etc'",
            "DROP TABLE flows",
            "INSERT INTO flows VALUES (1)",
            "EXPLAIN INSERT INTO flows VALUES (1)",
            "UPDATE flows SET seq = 1",
            "DELETE FROM flows",
            "COPY flows TO '/tmp/x.parquet'",
            "COPY (SELECT 1) TO '/tmp/x.parquet'",
            "SET datafusion.execution.batch_size = 1",
            "RESET datafusion.execution.batch_size",
            "PREPARE a AS SELECT 1",
            "EXECUTE a",
            "BEGIN",
            "SELECT 1; SELECT 2",
            "CREATE FUNCTION f() RETURNS INT RETURN 1",
            "TRUNCATE TABLE flows",
        ] {
            assert!(
                matches!(outcome(sql), Err(QueryError::NotAllowed(_) | QueryError::Invalid { .. })),
                "{sql}: {:?}",
                outcome(sql)
            );
        }
        assert!(matches!(outcome(""), Err(QueryError::Invalid { .. })));
    }

    #[test]
    fn long_lists_pass_and_long_chains_do_not() {
        let list = format!("SELECT 1 IN ({})", vec!["'a'"; 10_000].join(", "));
        assert_eq!(outcome(&list), Ok(()));
        for (piece, glue) in [("1", "+"), ("true", " OR "), ("SELECT 1", " UNION ALL ")] {
            let chain = format!("SELECT {}", vec![piece; 3000].join(glue));
            assert!(matches!(outcome(&chain), Err(QueryError::TooLarge(_))), "{glue}");
        }
        for (open, close) in [("(", ")"), ("NOT ", ""), ("- ", ""), ("ARRAY[", "]")] {
            let deep = format!("SELECT {}1{}", open.repeat(10_000), close.repeat(10_000));
            assert!(outcome(&deep).is_err(), "{open}");
        }
    }
}
