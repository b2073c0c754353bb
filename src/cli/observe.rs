//! `weir observe`: flows, as `hubble observe` shows them.

use std::collections::HashSet;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use ui::filter::Filters;
use ui::statement::{self, Order};
use ui::time::{self, Range};

use crate::cli::client::{Answer, Client, Server};
use crate::cli::text::{self, Colour};

mod by;
mod filters;
mod hubble;
mod print;
mod reasons;
mod row;

pub use filters::{FilterArgs, fold_not};

use print::Printer;
use row::{Key, Row};

/// Flows that are shown when nothing says how many.
const LAST: usize = 20;

/// Exit code of a wrong command line, as clap has it.
const USAGE: u8 = 2;

/// Pause before a stream that broke off is begun again.
const PAUSE: Duration = Duration::from_secs(1);

/// Flows, live or of history, with the flags and formats of `hubble observe`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  weir observe --last 50 --namespace shop
  weir observe --follow --verdict DROPPED
  weir observe --since 1h --to-port 53 -o jsonpb
  weir observe --since 1d --by source,destination --last 10
  weir observe --since 1h --not --namespace kube-system --sql")]
pub struct Args {
    /// Where to ask.
    #[command(flatten)]
    pub server: Server,
    /// Follow: flows as they come.
    #[arg(short, long)]
    pub follow: bool,
    /// The newest N; 20 when nothing else says which.
    #[arg(long, value_name = "N", conflicts_with_all = ["first", "all"])]
    pub last: Option<usize>,
    /// The oldest N.
    #[arg(long, value_name = "N", conflicts_with_all = ["all", "follow"])]
    pub first: Option<usize>,
    /// All that are kept.
    #[arg(long)]
    pub all: bool,
    /// Start of the range: `5m`, `3d`, `2026-01-31T12:00:00Z`.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub since: Option<String>,
    /// End of the range; left out when following.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub until: Option<String>,
    /// Which flows.
    #[command(flatten)]
    pub filters: FilterArgs,
    /// Add up by fields, comma-separated: columns of flows, or source, destination, namespace,
    /// workload, port, service, process.
    #[arg(long, value_name = "FIELD,…", value_delimiter = ',', conflicts_with_all = ["follow", "first"])]
    pub by: Vec<String>,
    /// Print the query instead of running it.
    #[arg(long, conflicts_with = "follow")]
    pub sql: bool,
    /// How to print.
    #[arg(short, long, value_enum, ignore_case = true, default_value_t = Output::Compact)]
    pub output: Output,
    /// Print the node that saw each flow.
    #[arg(long)]
    pub print_node_name: bool,
    /// Print the policy that decided.
    #[arg(long)]
    pub print_policy_names: bool,
    /// How to print times, in UTC.
    #[arg(long, value_enum, ignore_case = true, default_value_t = TimeFormat::StampMilli)]
    pub time_format: TimeFormat,
    /// Print addresses, not names.
    #[arg(long)]
    pub numeric: bool,
    /// Print names for addresses.
    #[arg(long, action = clap::ArgAction::Set, default_value_t = true, hide = true)]
    pub ip_translation: bool,
    /// Colour.
    #[arg(long, value_enum, default_value_t = Colour::Auto)]
    pub color: Colour,
    /// Say nothing about what is missing.
    #[arg(short, long)]
    pub silent_errors: bool,
}

/// How flows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// A line each.
    Compact,
    /// Hubble's JSON, a line each.
    Json,
    /// The same.
    Jsonpb,
    /// Aligned columns.
    Table,
    /// A field on each line.
    Dict,
    /// Aligned columns.
    Tab,
}

/// Go's names of layouts, as in Hubble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[expect(missing_docs, reason = "named by their Go layouts")]
pub enum TimeFormat {
    #[value(name = "StampMilli")]
    StampMilli,
    #[value(name = "YearMonthDay")]
    YearMonthDay,
    #[value(name = "YearMonthDayHour")]
    YearMonthDayHour,
    #[value(name = "YearMonthDayHourMinute")]
    YearMonthDayHourMinute,
    #[value(name = "RFC3339")]
    Rfc3339,
    #[value(name = "RFC3339Milli")]
    Rfc3339Milli,
    #[value(name = "RFC3339Micro")]
    Rfc3339Micro,
    #[value(name = "RFC3339Nano")]
    Rfc3339Nano,
    #[value(name = "RFC1123Z")]
    Rfc1123Z,
}

/// What to show of history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    range: Range,
    limit: Option<usize>,
    order: Order,
}

/// What a stream has shown.
#[derive(Debug, Default)]
struct Following {
    /// Rows of history, that the stream may bring again.
    shown: HashSet<Key>,
    /// Where to resume.
    id: Option<String>,
}

/// What the arguments ask for.
struct Asked {
    filters: Filters,
    /// The filters as parameters of the stream.
    pairs: Vec<(String, String)>,
    window: Window,
    /// Columns to sum by.
    by: Vec<&'static str>,
}

/// Asks and prints.
///
/// # Errors
/// When the server cannot be reached, or a filter or time is wrong.
pub async fn run(args: Args) -> Result<ExitCode> {
    let Asked { filters, pairs, window, by } = match Asked::of(&args) {
        Ok(asked) => asked,
        Err(error) => {
            eprintln!("error: {error:#}");
            return Ok(ExitCode::from(USAGE));
        }
    };
    let query = if by.is_empty() {
        statement::flows(&filters, window.range, window.limit, window.order)
    } else {
        statement::aggregate(&filters, window.range, &by, window.limit)
    };
    if args.sql {
        text::print(&format!("{query}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let client = args.server.client()?;
    if !by.is_empty() {
        return sums(&client, &query, &by, args.output).await;
    }
    let mut printer = Printer::new(
        args.output,
        args.time_format,
        args.print_node_name,
        args.print_policy_names,
        args.numeric || !args.ip_translation,
        args.color.on(),
    );
    let mut following = Following::default();
    if !args.follow {
        let missing = history(&client, &query, window.order, &mut printer, None).await?;
        if let Some(missing) = missing.filter(|_| !args.silent_errors) {
            eprintln!("{missing}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    // The stream begins before history is asked, so that nothing falls in between.
    let stream = begin(&client, &pairs, None).await?;
    if args.last.is_some() || args.since.is_some() || args.all {
        history(&client, &query, window.order, &mut printer, Some(&mut following)).await?;
    }
    tokio::select! {
        followed = follow(&client, &pairs, stream, &mut printer, &mut following) => followed?,
        stopped = tokio::signal::ctrl_c() => stopped?,
    }
    Ok(ExitCode::SUCCESS)
}

// === impl Asked ===

impl Asked {
    /// What is wrong with the arguments is an error of usage.
    fn of(args: &Args) -> Result<Self> {
        if args.follow && matches!(args.output, Output::Table | Output::Tab) {
            bail!("table output format is not compatible with follow mode");
        }
        let (filters, pairs) = args.filters.filters()?;
        let window = Window::of(args, time::now())?;
        Ok(Self { filters, pairs, window, by: by::columns(&args.by)? })
    }
}

// === impl Window ===

impl Window {
    fn of(args: &Args, now: i64) -> Result<Self> {
        let moment = |text: &Option<String>, flag: &str| {
            let moment = text.as_deref().map(|text| time::parse(text, now));
            moment.transpose().with_context(|| format!("--{flag}"))
        };
        let since = moment(&args.since, "since")?;
        let until = moment(&args.until, "until")?.filter(|_| !args.follow);
        let range = Range { since, until };
        let bounded = since.is_some() || until.is_some() || args.all;
        let (limit, order) = match (args.last, args.first) {
            (_, Some(first)) => (Some(first), Order::Oldest),
            (Some(last), None) => (Some(last), Order::Newest),
            (None, None) if bounded || args.follow => (None, Order::Oldest),
            // Sums are few and the largest come first.
            (None, None) if !args.by.is_empty() => (None, Order::Newest),
            (None, None) => (Some(LAST), Order::Newest),
        };
        Ok(Self { range, limit, order })
    }
}

/// Prints flows of history; what is missing from them.
async fn history(
    client: &Client,
    query: &str,
    order: Order,
    printer: &mut Printer,
    mut following: Option<&mut Following>,
) -> Result<Option<String>> {
    let mut answer = client.sql(query, "application/x-ndjson", None).await?;
    let missing = answer.completeness().and_then(|completeness| completeness.summary());
    let mut newest = Vec::new();
    while let Some(line) = answer.line().await? {
        let row = parse(&line)?;
        if let Some(following) = &mut following {
            following.shown.insert(row.key());
        }
        match order {
            Order::Oldest => text::print(&printer.flow(&row))?,
            Order::Newest => newest.push(row),
        }
    }
    let mut out = String::new();
    for row in newest.iter().rev() {
        out.push_str(&printer.flow(row));
    }
    out.push_str(&printer.end());
    text::print(&out)?;
    Ok(missing)
}

async fn sums(client: &Client, query: &str, by: &[&str], output: Output) -> Result<ExitCode> {
    let mut answer = client.sql(query, "application/x-ndjson", None).await?;
    let missing = answer.completeness().and_then(|completeness| completeness.summary());
    let mut rows = Vec::new();
    while let Some(line) = answer.line().await? {
        if matches!(output, Output::Json | Output::Jsonpb) {
            text::print(&format!("{line}\n"))?;
        } else {
            rows.push(serde_json::from_str(&line)?);
        }
    }
    if !matches!(output, Output::Json | Output::Jsonpb) {
        text::print(&by::table(by, &rows))?;
    }
    if let Some(missing) = missing {
        eprintln!("{missing}");
    }
    Ok(ExitCode::SUCCESS)
}

async fn begin(client: &Client, pairs: &[(String, String)], id: Option<&str>) -> Result<Answer> {
    let mut parameters = vec![("follow".to_owned(), "true".to_owned())];
    parameters.extend_from_slice(pairs);
    let headers: Vec<(&'static str, &str)> =
        id.map(|id| ("last-event-id", id)).into_iter().collect();
    client.get("/flows", &parameters, &headers).await
}

/// Prints what a stream brings; begins it again, where it was, when it breaks off.
async fn follow(
    client: &Client,
    pairs: &[(String, String)],
    mut stream: Answer,
    printer: &mut Printer,
    following: &mut Following,
) -> Result<()> {
    loop {
        let ended = events(&mut stream, printer, following).await;
        let why = match ended {
            Ok(()) => "the server ended the stream".to_owned(),
            Err(error) if error.downcast_ref::<std::io::Error>().is_some() => return Err(error),
            Err(error) => format!("{error:#}"),
        };
        eprintln!("{why}; connecting again");
        stream = loop {
            tokio::time::sleep(PAUSE).await;
            if let Ok(stream) = begin(client, pairs, following.id.as_deref()).await {
                break stream;
            }
        };
    }
}

/// Reads server-sent events to the end of the stream.
async fn events(
    stream: &mut Answer,
    printer: &mut Printer,
    following: &mut Following,
) -> Result<()> {
    let (mut kind, mut data, mut id) = (String::new(), String::new(), None);
    while let Some(line) = stream.line().await? {
        if let Some(value) = line.strip_prefix("event:") {
            kind = value.trim().to_owned();
        } else if let Some(value) = line.strip_prefix("data:") {
            data.push_str(value.trim_start());
        } else if let Some(value) = line.strip_prefix("id:") {
            id = Some(value.trim().to_owned());
        } else if line.is_empty() {
            match kind.as_str() {
                "flow" => {
                    let row = parse(&data)?;
                    if !following.shown.remove(&row.key()) {
                        text::print(&printer.flow(&row))?;
                    }
                }
                "gap" => {
                    let gap: serde_json::Value = serde_json::from_str(&data)?;
                    let lost = gap["lost"].as_u64().unwrap_or(0);
                    let cause = gap["cause"].as_str().unwrap_or_default();
                    let now = time::format(time::now());
                    text::print(&printer.lost(lost, cause, &now))?;
                }
                _ => {}
            }
            following.id = id.take().or(following.id.take());
            kind.clear();
            data.clear();
        }
    }
    Ok(())
}

/// A row, or the error that stands where the rest should be.
fn parse(line: &str) -> Result<Row> {
    #[derive(serde::Deserialize)]
    struct Broken {
        error: Message,
    }
    #[derive(serde::Deserialize)]
    struct Message {
        message: String,
    }
    if line.starts_with("{\"error\":")
        && let Ok(Broken { error }) = serde_json::from_str(line)
    {
        bail!("the answer ends early: {}", error.message);
    }
    serde_json::from_str(line).with_context(|| format!("not a flow: {line}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn window(line: &str) -> Window {
        let words = ["observe"].into_iter().chain(line.split_whitespace());
        Window::of(&Command::parse_from(words).args, 1_000_000_000_000).unwrap()
    }

    #[test]
    fn windows() {
        let check = |line: &str, since, limit, order| {
            let window = window(line);
            assert_eq!(
                (window.range.since, window.limit, window.order),
                (since, limit, order),
                "{line}"
            );
        };
        check("", None, Some(20), Order::Newest);
        check("--last 5", None, Some(5), Order::Newest);
        check("--first 5", None, Some(5), Order::Oldest);
        check("--all", None, None, Order::Oldest);
        check("--since 10s", Some(990_000_000_000), None, Order::Oldest);
        check("--since 10s --last 3", Some(990_000_000_000), Some(3), Order::Newest);
        check("-f", None, None, Order::Oldest);
        check("-f --last 3", None, Some(3), Order::Newest);
        assert_eq!(window("--until 10s").range.until, Some(990_000_000_000));
        assert_eq!(window("-f --since 1m --until 10s").range.until, None);
    }

    #[test]
    fn contradictions_are_usage_errors() {
        for line in
            ["--first 1 --last 1", "--first 1 --all", "--last 1 --all", "--first 1 -f", "-o xml"]
        {
            let words = ["observe"].into_iter().chain(line.split_whitespace());
            assert!(Command::try_parse_from(words).is_err(), "{line}");
        }
    }

    #[test]
    fn errors_in_place_of_rows() {
        let error = parse(r#"{"error":{"code":"timeout","message":"too slow","hint":null}}"#);
        assert!(error.unwrap_err().to_string().contains("too slow"));
        assert!(parse(r#"{"flow_id":"aa","end_time":"2026-01-01T00:00:00Z"}"#).is_ok());
    }
}
