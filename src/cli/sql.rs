//! `weir sql`: one query, a file of one, or a prompt.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::cli::client::{Client, Completeness, Server};
use crate::cli::text::{self, Table};
use crate::size;

mod prompt;

use prompt::{Line, Prompt};

/// Run SQL over flows, drops, losses, counters and the other tables.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  weir sql \"SELECT destination_workload, sum(bytes_out + bytes_in) AS bytes FROM flows GROUP BY 1 ORDER BY 2 DESC\"
  weir sql --file query.sql -o csv > answer.csv
  weir sql \"SELECT * FROM flows WHERE start_time > now() - interval '1 hour'\" -o parquet > hour.parquet
  weir sql            # a prompt with history and completion (Tab); end a query with ;")]
pub struct Args {
    /// Where to ask.
    #[command(flatten)]
    pub server: Server,
    /// The query; without it, a prompt on a terminal, else standard input.
    pub query: Option<String>,
    /// Read the query from a file.
    #[arg(long, value_name = "FILE", conflicts_with = "query")]
    pub file: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// How long the query may take.
    #[arg(long, value_name = "SPAN", value_parser = size::duration)]
    pub timeout: Option<Duration>,
}

/// Formats of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Aligned columns.
    Table,
    /// One object: schema, rows, completeness, statistics.
    Json,
    /// An object a row.
    Ndjson,
    /// Comma-separated values with a heading.
    Csv,
    /// Arrow IPC stream.
    Arrow,
    /// A Parquet file.
    Parquet,
}

#[derive(Debug, Deserialize)]
struct Rows {
    schema: Vec<Column>,
    rows: Vec<Vec<Value>>,
    completeness: Completeness,
    stats: Stats,
}

#[derive(Debug, Deserialize)]
struct Column {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Stats {
    elapsed_ms: f64,
    #[serde(default)]
    truncated: bool,
}

/// Runs the query, or the prompt.
///
/// # Errors
/// When the server cannot be reached, or refuses the query.
pub async fn run(args: Args) -> Result<ExitCode> {
    let client = args.server.client()?;
    let query = match (&args.query, &args.file) {
        (Some(query), _) => query.clone(),
        (None, Some(file)) => {
            std::fs::read_to_string(file).with_context(|| format!("--file {}", file.display()))?
        }
        (None, None) if std::io::stdin().is_terminal() => return prompt(&client, &args).await,
        (None, None) => {
            let mut query = String::new();
            std::io::stdin().read_to_string(&mut query).context("standard input")?;
            query
        }
    };
    ask(&client, &query, &args).await?;
    Ok(ExitCode::SUCCESS)
}

async fn prompt(client: &Client, args: &Args) -> Result<ExitCode> {
    eprintln!("Connected to {}. End a query with `;`, the prompt with Ctrl-D.", client.base());
    let mut prompt = Prompt::new(client).await?;
    let mut query = String::new();
    loop {
        let sign = if query.is_empty() { "weir> " } else { "   -> " };
        let (line, back) = tokio::task::spawn_blocking(move || {
            let line = prompt.read(sign);
            (line, prompt)
        })
        .await?;
        prompt = back;
        match line? {
            Line::Text(line) => query.push_str(&line),
            Line::Dropped => query.clear(),
            Line::End => return Ok(ExitCode::SUCCESS),
        }
        if let Some(whole) = query.trim_end().strip_suffix(';') {
            prompt.remember(query.trim_end());
            if let Err(error) = ask(client, whole, args).await {
                eprintln!("error: {error:#}");
            }
            query.clear();
        } else if !query.is_empty() {
            query.push('\n');
        }
    }
}

async fn ask(client: &Client, query: &str, args: &Args) -> Result<()> {
    let accept = match args.output {
        Output::Table | Output::Json => "application/json",
        Output::Ndjson => "application/x-ndjson",
        Output::Csv => "text/csv",
        Output::Arrow | Output::Parquet => "application/vnd.apache.arrow.stream",
    };
    if args.output == Output::Parquet && std::io::stdout().is_terminal() {
        bail!(
            "a Parquet file is nothing for a terminal: redirect it, as in -o parquet > answer.parquet"
        );
    }
    let mut answer = client.sql(query, accept, args.timeout).await?;
    if args.output == Output::Table {
        let rows: Rows = serde_json::from_str(&answer.text().await?).context("the answer")?;
        return Ok(print(&rows)?);
    }
    let completeness = answer.completeness();
    if args.output == Output::Parquet {
        let mut stream = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            stream.extend_from_slice(&chunk);
        }
        flowstore::arrow_to_parquet(stream.as_slice(), std::io::stdout())
            .context("writing Parquet")?;
        warn(completeness.as_ref(), answer.truncated());
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    while let Some(chunk) = answer.chunk().await? {
        out.write_all(&chunk)?;
    }
    if args.output == Output::Json {
        writeln!(out)?;
    }
    warn(completeness.as_ref(), answer.truncated());
    Ok(())
}

fn print(rows: &Rows) -> std::io::Result<()> {
    let headings: Vec<&str> = rows.schema.iter().map(|column| column.name.as_str()).collect();
    let mut table = Table::new(&headings);
    for row in &rows.rows {
        table.row(row.iter().map(cell).collect());
    }
    let mut out = std::io::stdout().lock();
    write!(out, "{}", table.text(2))?;
    writeln!(
        out,
        "({} {}, {:.0} ms)",
        rows.rows.len(),
        if rows.rows.len() == 1 { "row" } else { "rows" },
        rows.stats.elapsed_ms
    )?;
    warn(Some(&rows.completeness), rows.stats.truncated);
    Ok(())
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text::harmless(text),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

fn warn(completeness: Option<&Completeness>, truncated: bool) {
    if truncated {
        eprintln!("truncated: there are more rows; narrow the query or add LIMIT");
    }
    if let Some(missing) = completeness.and_then(Completeness::summary) {
        eprintln!("incomplete: {missing}");
    }
}
